"""The contract: every type that crosses the wire, and nothing else.

    Task + completions -> ScoreRequest -> ScoreResponse(items=[ScoredItem(verdicts=[Verdict])])

Imports without FastAPI, Redis or SymPy, so that any trainer can use it. All types are frozen and refuse unknown keys.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator


class Wire(BaseModel):
    """Base of all wire types: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


def _not_text(value: Any) -> Any:
    if isinstance(value, str | bool):  # which pydantic alone would take for numbers
        raise ValueError("Input should be a number")
    return value


Number = Annotated[float, BeforeValidator(_not_text)]
Whole = Annotated[int, BeforeValidator(_not_text)]
Thinking = Literal["strip", "require", "keep"]


class Task(Wire):
    """What a completion is graded against; each kind adds its own fields."""

    kind: str
    thinking: Thinking = "strip"
    """`strip`: judge what follows the last `</think>`; `require`: without one the verdict is `no_think_end`; `keep`."""


NonEmptyText = Annotated[str, Field(min_length=1)]


class AnswerTask(Task):
    """A task whose answer is compared with one that is given."""

    ground_truth: NonEmptyText | Annotated[list[NonEmptyText], Field(min_length=1)]
    """LaTeX or plain; a list names several accepted answers."""

    @property
    def golds(self) -> tuple[str, ...]:
        return (self.ground_truth,) if isinstance(self.ground_truth, str) else tuple(self.ground_truth)


class MathTask(AnswerTask):
    kind: Literal["math"] = "math"
    extract: Literal["boxed", "any"] = "boxed"


class StdinTest(Wire):
    stdin: str
    stdout: str


class CallTest(Wire):
    args: list[JsonValue]
    expected: JsonValue


class AssertTest(Wire):
    # `assert` is a keyword of Python, so the field has another name inside than on the wire.
    source: Annotated[NonEmptyText, Field(alias="assert")]
    """Python source run after the program."""


class Checker(Wire):
    """A special judge in testlib's manner: gets input, output and answer files, exits 0 for right."""

    language: str
    source: NonEmptyText


class CodeTask(Task):
    kind: Literal["code"] = "code"
    language: str = "python"
    tests: Annotated[list[StdinTest] | list[CallTest] | list[AssertTest], Field(min_length=1)]
    entry_point: str | None = None
    """A function, or a method of a class `Solution`; call tests need it."""
    scoring: Literal["fraction", "all"] = "fraction"
    time_limit_s: Annotated[Number, Field(gt=0, le=600)] = 5.0
    """CPU seconds a test."""
    total_time_limit_s: Annotated[Number, Field(gt=0, le=3600)] = 5.0
    """CPU seconds of all tests together, compilation apart."""
    on_total_timeout: Literal["zero", "passed_so_far"] = "zero"
    memory_limit_mb: Annotated[Whole, Field(ge=16, le=65536)] = 512
    checker: Checker | None = None
    float_tolerance: Annotated[Number, Field(ge=0)] | None = None
    """Numeric tolerance of stdin tests, absolute or relative; none unless declared."""

    @model_validator(mode="after")
    def _tests_fit(self) -> Self:
        if isinstance(self.tests[0], CallTest) and not self.entry_point:
            raise ValueError("tests with `args` need an `entry_point`")
        if not isinstance(self.tests[0], StdinTest) and self.language != "python":
            raise ValueError("call and assert tests need language `python`")
        if self.checker is not None and not isinstance(self.tests[0], StdinTest):
            raise ValueError("a `checker` needs tests with `stdin` and `stdout`")
        return self


class StemTask(AnswerTask):
    kind: Literal["stem"] = "stem"
    answer_type: Literal["auto", "choice", "number", "expression", "formula", "text"] = "auto"
    choices: Annotated[list[NonEmptyText], Field(min_length=2, max_length=26)] | None = None
    """Texts of the options, A first."""
    rel_tol: Annotated[Number, Field(ge=0, lt=1)] | None = None
    abs_tol: Annotated[Number, Field(ge=0)] | None = None


class LogicEntry(Wire):
    """A Reasoning Gym entry, as the library makes it, through JSON."""

    question: str
    answer: str | None
    metadata: dict[str, JsonValue]


class LogicTask(Task):
    kind: Literal["logic"] = "logic"
    dataset: NonEmptyText
    """A name registered in the installed Reasoning Gym."""
    entry: LogicEntry | None = None
    seed: Whole | None = None
    index: Annotated[Whole, Field(ge=0)] | None = None
    config: dict[str, JsonValue] | None = None
    """The data set's own config, without `seed` and `size`."""
    reward_mode: Literal["library", "strict"] = "library"

    @model_validator(mode="after")
    def _entry_or_index(self) -> Self:
        by_index = self.seed is not None and self.index is not None
        if (self.entry is None) != by_index:
            raise ValueError("give either `entry`, or both `seed` and `index`")
        return self


class Instruction(Wire):
    id: NonEmptyText
    kwargs: dict[str, JsonValue] = {}


class InstructionTask(Task):
    kind: Literal["instruction"] = "instruction"
    instructions: Annotated[list[Instruction], Field(min_length=1)]
    """IFEval and IFBench ids with their keyword arguments (null means: not given)."""
    prompt: str | None = None
    """The prompt, for the instructions that compare with it."""
    mode: Literal["strict", "loose"] = "strict"
    scoring: Literal["fraction", "all"] = "fraction"
    semantics: Literal["official", "repaired"] = "official"


class ChatMessage(Wire):
    role: NonEmptyText
    content: str


Prompt = str | list[ChatMessage]


class Item(Wire):
    """One prompt's task and its completions. Also one line of an items file."""

    id: str | None = None
    prompt: Prompt | None = None
    task: dict[str, JsonValue]
    """A task of any registered kind; validated against that kind's model on arrival."""
    completions: Annotated[list[str], Field(min_length=1)]


class ScoreRequest(Wire):
    request_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Idempotency key: with the same body never graded twice, with another body refused (409)."""
    deadline_s: Annotated[Number, Field(gt=0, le=86400)] = 300.0
    """Ends the waiting of what was never dispatched to a grader."""
    items: Annotated[list[Item], Field(min_length=1)]


class Outcome(StrEnum):
    CORRECT = "correct"
    PARTIAL = "partial"
    INCORRECT = "incorrect"
    ERROR = "error"
    """We could not judge. Never a wrong answer; never caused by a completion."""


class Verdict(Wire):
    """The judgement of one completion. `reward` is None if and only if `outcome` is `error`."""

    outcome: Outcome
    reward: float | None
    reason: str
    """One short machine-readable word; `GET /v1/verifiers` documents each."""
    extracted: str | None = None
    components: dict[str, Any] = {}
    """What partial credit is made of: each test, each instruction."""
    verifier: str
    verifier_version: str
    elapsed_s: float = 0.0
    cached: bool = False

    @model_validator(mode="after")
    def _reward_fits_outcome(self) -> Self:
        reward = self.reward
        fits = {
            Outcome.ERROR: reward is None,
            Outcome.CORRECT: reward == 1.0,
            Outcome.INCORRECT: reward == 0.0,
            Outcome.PARTIAL: reward is not None and 0.0 < reward < 1.0,
        }
        if not fits[self.outcome]:
            raise ValueError(f"reward {reward} does not fit outcome {self.outcome}")
        return self


class ScoredItem(Wire):
    id: str | None = None
    verdicts: list[Verdict]
    """One a completion, in the order sent."""


class ScoreResponse(Wire):
    request_id: str | None = None
    items: list[ScoredItem]
    """One an item, in the order sent."""


class JobAccepted(Wire):
    job_id: str


class JobState(Wire):
    job_id: str
    status: Literal["queued", "running", "finished", "cancelled"]
    done: int
    """Completions judged so far."""
    total: int
    items: list[ScoredItem] | None = None
    """Present when `status` is `finished`."""


class SampleRequest(Wire):
    kind: Literal["logic"] = "logic"
    dataset: NonEmptyText
    seed: Whole = 0
    count: Annotated[Whole, Field(ge=1, le=10_000)] = 1
    config: dict[str, JsonValue] = {}


class SampledItem(Wire):
    id: str | None = None
    prompt: Prompt
    task: dict[str, JsonValue]


class SampleResponse(Wire):
    items: list[SampledItem]


class VerifierInfo(Wire):
    """One task kind as `GET /v1/verifiers` lists it."""

    model_config = ConfigDict(extra="allow")

    kind: str
    version: str
    description: str
    task_schema: Annotated[dict[str, Any], Field(alias="schema")]
    """JSON Schema of the task."""
    reasons: dict[str, str]
    """Every reason this kind can give, with its meaning."""
    exploits_withstood: int = 0
    """Cheats of the project's test suite that this version is proven to pay no more than they deserve."""


class VerifierList(Wire):
    verifiers: list[VerifierInfo]


class FieldError(Wire):
    loc: list[str | int]
    msg: str


class Problem(Wire):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None
