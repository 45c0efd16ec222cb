"""A small agent on the twelve shipped training photos, from scratch: the first run that anybody makes.

    r1jax train configs/quickstart.py --run runs/quickstart

Lite toolbox, group A of the MiO100 mixes, 96-pixel crops, three tool calls at most. A few minutes on two CPU cores.
"""

from r1jax.config import Config, DataConfig, EnvConfig, EvalConfig, PPOConfig


def config() -> Config:
    return Config(
        name="quickstart",
        data=DataConfig(photos="builtin:train", mixes="A", crop=96),
        env=EnvConfig(toolbox=("lite",), horizon=3, step_cost=0.05),
        ppo=PPOConfig(updates=80, episodes=32, epochs=6, minibatches=2, learning_rate=2e-3, entropy_end=0.002),
        eval=EvalConfig(photos="builtin:test", every=40, images=16, checkpoint_every=20),
    )
