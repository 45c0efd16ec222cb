"""The agent that all ablations vary: the lite toolbox, three calls at most, trained on a transition tree.

    r1jax train configs/ablation.py --tree trees/ablation --eval-tree trees/ablation_test

The trees, once (`--estimate` says how long it takes); PHOTOS is a folder of clean photos:

    r1jax tree build configs/ablation.py -o trees/ablation --images 64 --photos PHOTOS
    r1jax tree build configs/ablation.py -o trees/ablation_test --images 48 --photos builtin:test

The configs ablate_*.py and pareto.py hold a sweep each; with --small they train a fifth as long.
"""

from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig


def config() -> Config:
    return Config(
        name="ablation",
        data=DataConfig(photos="builtin:train", mixes="A", crop=64),
        env=EnvConfig(toolbox=("lite",), horizon=3, step_cost=0.05),
        agent=AgentConfig(encoder="lite_scorer", hidden=(64, 64)),
        ppo=PPOConfig(
            updates=150, episodes=1024, epochs=4, minibatches=4, learning_rate=1e-3, entropy_start=0.05, entropy_end=0.005
        ),
        eval=EvalConfig(photos="builtin:test", every=150, images=48, checkpoint_every=0),
    )
