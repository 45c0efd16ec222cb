"""The paper's agent (Restore-R1, arXiv 2512.18599): frozen CLIP ViT-L/14, action record, MLP actor-critic, PPO with GAE.

    r1jax train configs/restore_r1.py --data.photos=PHOTOS

Needs the CLIP checkpoint (openai/clip-vit-large-patch14, Hugging Face) and, for the paper's reward, a GPU for DeQA-Score:
--reward.scorer=deqa. With --ppo.algorithm=grpo --ppo.group_size=8 it is the variant of the paper's second version. Each
number has its source: [paper] the paper's own words, [reported] by a secondary source, [ours] unknown, and chosen here.
"""

from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig, RewardConfig


def config() -> Config:
    return Config(
        name="restore_r1",
        data=DataConfig(
            photos="builtin:train",  # [ours] the training images are unknown
            mixes="A",  # [ours] the paper's settings I to IV are mixes of two to five degradations; which is unknown
            crop=224,  # [ours] the side that the encoder sees without resizing
        ),
        env=EnvConfig(
            toolbox=("lite",),  # [ours] its tool library is unknown; AgenticIR's is likely, the baseline it compares with
            horizon=4,  # [ours] unknown
            stop=False,  # [ours] whether STOP exists is unknown; a fixed horizon is likelier
            step_cost=0.0,  # [paper] the reward is the difference in score and nothing else
        ),
        agent=AgentConfig(
            encoder="clip_vit_l14",  # [reported] frozen CLIP ViT-L/14; whether 224 or 336 pixels is unknown
            hidden=(256, 128),  # [ours] "light MLP"; its widths are unknown
            record=True,  # [reported] the state holds the action record; its encoding is unknown, here one-hot a slot
        ),
        reward=RewardConfig(
            scorer="lite",  # [reported] DeQA-Score; here the shipped scorer, which needs no GPU
        ),
        ppo=PPOConfig(
            algorithm="ppo",  # [reported] PPO's clipped surrogate
            gamma=0.99,  # [reported]
            gae_lambda=0.95,  # [reported]
            clip=0.2,  # [reported]
            value_coef=0.5,  # [reported]
            learning_rate=1e-2,  # [reported]
            entropy_start=0.05,  # [reported] 0.01 to 0.05, decaying
            entropy_end=0.01,  # [reported]
            updates=200,  # [ours] this and all below are unknown
            episodes=32,
            epochs=4,
            minibatches=2,
            max_grad_norm=0.5,
        ),
        eval=EvalConfig(photos="builtin:test", every=50, images=32),
    )
