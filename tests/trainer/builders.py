"""Small values of the trainer's types for tests."""

from collections.abc import Sequence

from trainer.types import Prompt, Rollout, RolloutGroup
from verifier_service.schemas import Outcome, Verdict


def verdict(reward: float | None) -> Verdict:
    outcomes = {None: Outcome.ERROR, 0.0: Outcome.INCORRECT, 1.0: Outcome.CORRECT}
    outcome = outcomes.get(reward, Outcome.PARTIAL)
    return Verdict(outcome=outcome, reward=reward, reason="test", verifier="math", verifier_version="1")


def rollout(
    reward: float | None, num_tokens: int = 3, truncated: bool = False, policy_version: int = 0, text: str = "text"
) -> Rollout:
    return Rollout(
        token_ids=tuple(range(num_tokens)),
        logprobs=(-0.5,) * num_tokens,
        text=text,
        truncated=truncated,
        policy_version=policy_version,
        verdict=verdict(reward),
        shaped_reward=reward,
    )


def group(index: int, rewards: Sequence[float | None], policy_version: int = 0, domain: str = "math") -> RolloutGroup:
    prompt = Prompt(f"p{index}", ({"role": "user", "content": "2+2?"},), {"kind": "math"}, domain, token_ids=(1, 2))
    rollouts = tuple(rollout(reward, policy_version=policy_version) for reward in rewards)
    return RolloutGroup(index=index, prompt=prompt, rollouts=rollouts)
