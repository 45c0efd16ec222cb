"""An agent for the published tools: seven of the ten, at most two calls.

    r1jax train configs/published_agent.py --tree trees/published --run runs/published_agent

The tree is made before, in 20 seconds an image and core:

    r1jax weights pull published
    r1jax tree build configs/published_agent.py -o trees/published --photos PHOTOS --images 64

Left out of the box are what doubles a task (sensor noise, indoor haze) and retouching, which no degradation asks for: a
state has as many children as there are tools. MAXIM works on multiples of 64 pixels, so that 64-pixel crops cost a quarter
of 96 or 128. docs/guide-weights.md has its figures: the lite scorer can be gamed with these tools, so none is shipped.
"""

from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig

TOOLS = (
    "maxim_deblur",
    "maxim_derain",
    "maxim_dehaze_outdoor",
    "maxim_brighten",
    "upconv7_dejpeg",
    "rrdbnet_super_resolution",
    "ffdnet_denoise",
)


def config() -> Config:
    return Config(
        name="published_agent",
        data=DataConfig(photos="builtin:train", mixes="A", crop=64, clean_share=0.02),
        env=EnvConfig(toolbox=TOOLS, horizon=2, step_cost=0.05),
        agent=AgentConfig(hidden=(64, 64)),
        ppo=PPOConfig(updates=200, episodes=512, epochs=4, minibatches=4, learning_rate=1e-3, entropy_end=0.005),
        eval=EvalConfig(every=0),
    )
