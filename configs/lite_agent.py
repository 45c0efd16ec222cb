"""The agent that the package ships: lite toolbox, lite scorer, up to four tool calls.

    r1jax train configs/lite_agent.py --run runs/lite_agent --data.photos=PHOTOS

PHOTOS is a folder of a few hundred clean photos; r1jax/assets/lite/agent.json lists those of the shipped one.
"""

from r1jax.config import Config, DataConfig, EnvConfig, EvalConfig, PPOConfig


def config() -> Config:
    return Config(
        name="lite_agent",
        data=DataConfig(photos="builtin:train", mixes="A", crop=96, clean_share=0.03),
        env=EnvConfig(toolbox=("lite",), horizon=4, step_cost=0.06),
        ppo=PPOConfig(
            updates=320,
            episodes=48,
            epochs=6,
            minibatches=3,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            entropy_end=0.003,
        ),
        eval=EvalConfig(photos="builtin:test", every=55, images=32, checkpoint_every=10),
    )
