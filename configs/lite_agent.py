"""A member of the agent that the package ships: lite toolbox, lite scorer, up to three tool calls.

    r1jax train configs/lite_agent.py --tree trees/lite_agent --run runs/lite_agent

The tree, once:

    r1jax tree build configs/lite_agent.py -o trees/lite_agent --images 2000 --beam 3 --tree-seed 7 --photos PHOTOS

PHOTOS is a folder of a few hundred clean photos; docs/reproduce-weights.md names those of the shipped agent, its seven
members and what each was trained with beyond this file. The tree takes twenty minutes of two cores; the training on it a
minute. Of photos that the encoder learned from, it foresees too well: docs/reproduce-weights.md has how to show each apart.
Without --tree, --init or a GPU it takes hours: an update is 1024 episodes.
"""

from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig


def config() -> Config:
    return Config(
        name="lite_agent",
        data=DataConfig(photos="builtin:train", mixes="A", crop=96, extra_mixes="wide", clean_share=0.04),
        env=EnvConfig(toolbox=("lite",), horizon=3, step_cost=0.05),
        agent=AgentConfig(encoder="lite_foresight", hidden=(64, 64)),
        ppo=PPOConfig(
            updates=150,
            episodes=1024,
            epochs=4,
            minibatches=4,
            learning_rate=5e-4,
            learning_rate_schedule="linear",
            entropy_start=0.05,
            entropy_end=0.005,
        ),
        eval=EvalConfig(photos="builtin:test", every=50, images=32, checkpoint_every=50),
    )
