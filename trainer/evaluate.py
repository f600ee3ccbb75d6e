"""Validation: a blend of held-out sets, scored like training prompts, with the same seeds every time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trainer.engine.protocol import Engine, RolloutRequest, Sampling, sampling_seed
from trainer.parallel import Ranks
from trainer.passk import SetScore, blend, score_set
from trainer.reward import RewardStats, Scorer
from trainer.rollouts import roll_out
from trainer.run import Run
from trainer.run_config import ValidationConfig
from trainer.triggers import Validation, observe_validation
from trainer.types import Prompt


@dataclass(frozen=True)
class ValidationScores:
    """What one validation found."""

    sets: Mapping[str, SetScore]
    score: float
    """Of the blend."""
    error: float
    """Its sampling error."""

    def for_metrics(self) -> dict[str, object]:
        """The object `validation` of metrics.jsonl."""
        sets = {
            name: {
                "mean": s.mean,
                "standard_error": s.standard_error,
                "pass_at": {str(k): v for k, v in s.pass_at.items()},
            }
            for name, s in self.sets.items()
        }
        return {"score": self.score, "error": self.error, "sets": sets}

    def for_ledger(self) -> dict[str, float]:
        known = {"blend": self.score, "blend_error": self.error, **{name: s.mean for name, s in self.sets.items()}}
        return {name: value for name, value in known.items() if math.isfinite(value)}


def evaluate(
    engine: Engine,
    scorer: Scorer,
    sets: Mapping[str, Sequence[Prompt]],
    config: ValidationConfig,
    sampling: Sampling,
    step: int,
    stats: RewardStats,
    ranks: Ranks,
) -> ValidationScores | None:
    """Scores of the engine's policy; None where no reward of a set is known. `step` only names the requests.

    Seeds do not depend on the step: two policies that are alike draw alike, and scores differ by less.
    """
    scores = {}
    for name in config.shares:
        requests = [
            RolloutRequest(
                i, prompt, tuple(sampling_seed("validation", 0, prompt.id, k) for k in range(config.num_samples))
            )
            for i, prompt in enumerate(sets[name])
        ]
        groups = roll_out(engine, scorer, requests, sampling, step, stats, ranks)
        rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
        if all(reward is None for row in rewards for reward in row):
            return None
        scores[name] = score_set(rewards, config.pass_at, config.thresholds.get(name, 1.0))
    return ValidationScores(scores, *blend(scores, config.shares))


def validation_is_due(run: Run, step: int) -> bool:
    validation = run.config.validation
    return validation is not None and (step % validation.every_steps == 0 or step == run.config.num_steps)


def validate(run: Run) -> ValidationScores | None:
    """Score the validation blend and remember it; None, and nothing remembered, where too few rewards are known."""
    config = run.config.validation
    assert config is not None  # asked for only where it is due
    stats = RewardStats()
    now = run.config.at(run.state.step, run.state.era)
    sampling = Sampling(config.temperature, now.sampling.max_tokens)  # the training context (ProRL, appendix E)
    run.scorer.begin_step()  # a service that was away while the policy trained may be back
    scores = evaluate(run.engine, run.scorer, run.validation_sets, config, sampling, run.state.step, stats, run.ranks)
    if scores is None or stats.unknown_frac > run.config.reward.max_error_frac:
        return None
    found = Validation(run.state.step, scores.score, scores.error)
    best = run.state.best
    run.state = replace(
        run.state,
        validation=scores.for_ledger(),
        triggers=observe_validation(run.state.triggers, found),
        best=(found if best is None or found.score > best.score else best) if run.may_go_back else None,
    )
    run.meet_verifiers(stats.verifier_versions)
    return scores
