"""The agent that the package ships for the published tools: seven of the ten, at most two calls.

    r1jax train configs/published_agent.py --tree trees/published --run runs/published_agent

The tree is made before, in 9 seconds an image and core:

    r1jax weights pull published
    r1jax tree build configs/published_agent.py -o trees/published --photos PHOTOS --images 88 --tree-seed 3

Left out of the box are what doubles a task (sensor noise, indoor haze) and retouching, which no degradation asks for: a
state has as many children as there are tools. MAXIM works on multiples of 64 pixels, so that 64-pixel crops cost a quarter
of 96 or 128. The reward is PSNR against the clean crop, which the tree holds, in decibels: the lite scorer can be gamed
with these tools (docs/guide-weights.md).
"""

from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig, RewardConfig

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
        env=EnvConfig(toolbox=TOOLS, horizon=2, step_cost=0.1),
        agent=AgentConfig(hidden=(64, 64)),
        reward=RewardConfig(metric="psnr_y"),
        ppo=PPOConfig(
            updates=80,
            episodes=512,
            epochs=4,
            minibatches=4,
            learning_rate=1e-3,
            value_coef=0.05,  # decibels are some ten times a score's numbers
            entropy_start=0.05,
            entropy_end=0.01,
        ),
        eval=EvalConfig(every=0),
    )
