"""Known data sets, row by row, as prompts with tasks. Reads local files in the schemas their authors published.

    convert("gsm8k", {"question": "...", "answer": "... #### 42"}) -> SampledItem(prompt=..., task={"kind": "math", ..})

One function a data set; `CONVERTERS` names them. A row that yields no usable task raises `RowRefused` with the reason.
"""

import builtins
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from verifier_service import extraction
from verifier_service.errors import BadInput, TaskRefused, first_error
from verifier_service.registry import parse_task
from verifier_service.sampling import ANSWER_FORMAT
from verifier_service.schemas import Item, SampledItem

Row = Mapping[str, Any]

BOXED = "Let's think step by step and output the final answer within \\boxed{}."
"""What ProRL appends to its mathematics prompts (arXiv 2505.24864, appendix D.1)."""
FENCED = "Write a Python program. Put the final code into one block fenced by triple backticks."

SHORT_SOLUTION = 80
"""Characters; a worked solution without a marked answer is longer than an answer."""


_DEFINED = re.compile(r"^def (\w+)", re.MULTILINE)


class RowRefused(Exception):
    """This row holds no usable task; the message says why."""


def convert(name: str, row: Row) -> SampledItem | Item:
    """The item of one row, its task admitted by its verifier. Raises `RowRefused`."""
    try:
        item = CONVERTERS[name](row)
        parse_task(item.task)
    except ValidationError as error:
        raise RowRefused(first_error(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RowRefused(f"not a row of {name}: {type(error).__name__}: {error}") from error
    except TaskRefused as error:
        raise RowRefused(f"{error.field}: {error.message}") from error
    return item


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a .jsonl, .json (a list, or an object that holds one) or .parquet file. Raises `BadInput`."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".json":
            held = json.loads(path.read_text())
            yield from held if isinstance(held, list) else next(v for v in held.values() if isinstance(v, list))
        else:
            with path.open() as lines:
                yield from (json.loads(line) for line in lines if line.strip())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except (ValueError, StopIteration) as error:
        raise BadInput(f"{path} does not hold rows of JSON: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInput(f"reading {path} needs pyarrow (pip install pyarrow), or convert it to .jsonl") from error
    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _item(row_id: Any, asked: Any, **task: Any) -> SampledItem:
    return SampledItem(id=None if row_id is None else str(row_id), prompt=asked, task=task)


def _deepscaler(row: Row) -> SampledItem:
    return _item(None, f"{row['problem']} {BOXED}", kind="math", ground_truth=row["answer"])


def _math(row: Row) -> SampledItem:
    answer = extraction.last_boxed(row["solution"])
    if not answer:
        raise ValueError("the solution has no boxed answer")
    return _item(row.get("unique_id"), f"{row['problem']} {BOXED}", kind="math", ground_truth=answer)


def _gsm8k(row: Row) -> SampledItem:
    _worked, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("the answer has no `####`")
    return _item(None, f"{row['question']} {BOXED}", kind="math", ground_truth=answer.strip().replace(",", ""))


def _scp(row: Row) -> SampledItem:
    solution = next(row[name] for name in ("answer", "matched_solution", "solution") if row.get(name)).strip()
    stated = extraction.last_boxed(solution) or extraction.stated_answer(solution)
    if not stated and len(solution) > SHORT_SOLUTION:
        raise ValueError("the solution marks no final answer")
    return _item(None, f"{row['problem']} {BOXED}", kind="stem", ground_truth=stated or solution)


def _eurus_code(row: Row) -> SampledItem:
    if row["ability"] != "code":
        raise ValueError(f"ability is {row['ability']!r}, not 'code'")
    truth = row["reward_model"]["ground_truth"]
    truth = json.loads(truth) if isinstance(truth, str) else truth
    pairs = list(zip(truth["inputs"], truth["outputs"], strict=True))
    index = row.get("extra_info", {}).get("index")
    if truth.get("fn_name"):
        wrapped = all(isinstance(wanted, list) and len(wanted) == 1 for _given, wanted in pairs)
        tests = [
            {"args": _arguments(given), "expected": wanted[0] if wrapped else _returned(given, wanted)}
            for given, wanted in pairs
        ]
        return _item(index, row["prompt"], kind="code", tests=tests, entry_point=truth["fn_name"])
    tests = [{"stdin": _lines(given), "stdout": _lines(wanted)} for given, wanted in pairs]
    return _item(index, row["prompt"], kind="code", tests=tests)


def _arguments(given: Any) -> list[Any]:
    """Of a call: one JSON value a line, or the list of arguments itself."""
    return [json.loads(line) for line in given.split("\n")] if isinstance(given, str) else list(given)


def _returned(given: Any, wanted: Any) -> Any:
    """JSON where the arguments are. APPS wraps each output of a row in a list of one; the caller undoes that."""
    return json.loads(wanted) if isinstance(wanted, str) and isinstance(given, str) else wanted


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _humaneval(row: Row) -> SampledItem | Item:
    check = f"{row['test']}\ncheck({row['entry_point']})\n"
    prompt = f"{FENCED} Complete this function:\n\n```python\n{row['prompt']}```"
    item = _item(row["task_id"], prompt, kind="code", tests=[{"assert": check}])
    return _with_reference(item, f"{row['prompt']}{row['canonical_solution']}" if "canonical_solution" in row else None)


def _mbpp(row: Row) -> SampledItem | Item:
    set_up = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    tests = [{"assert": f"{set_up}\n{test}".strip()} for test in row["test_list"]]
    prompt = f"{row.get('text') or row['prompt']}\n{FENCED} It must pass, for example:\n\n{row['test_list'][0]}"
    # A function of MBPP is called `sum`: only as the entry point is that name the program's.
    named = [name for name in _DEFINED.findall(row.get("code", "")) if f"{name}(" in row["test_list"][0]]
    more = {"entry_point": named[0]} if named and hasattr(builtins, named[0]) else {}
    return _with_reference(_item(row["task_id"], prompt, kind="code", tests=tests, **more), row.get("code"))


def _with_reference(item: SampledItem, source: str | None) -> SampledItem | Item:
    """With the row's own solution as a completion, where it has one: `verifier check` tries it."""
    if source is None:
        return item
    completion = f"```python\n{source.strip()}\n```"
    return Item(id=item.id, prompt=item.prompt, task=item.task, completions=[completion])


def _ifeval(row: Row) -> SampledItem:
    return _instructions(row["key"], row["prompt"], row["instruction_id_list"], row["kwargs"])


def _llama_nemotron(row: Row) -> SampledItem:
    """The instruction-following rows of the RL split: ids and arguments stand in `args` or beside it."""
    held = row.get("args") or row
    held = json.loads(held) if isinstance(held, str) else held
    prompt = row.get("input") or row["prompt"]
    if isinstance(prompt, list):
        prompt = [{"role": message["role"], "content": message["content"]} for message in prompt]
    kwargs = held.get("instruction_kwargs") or held["kwargs"]
    return _instructions(row.get("id"), prompt, held["instruction_id_list"], kwargs)


def _instructions(row_id: Any, prompt: Any, ids: list[str], kwargs: list[Any]) -> SampledItem:
    listed = [
        {"id": name, "kwargs": {key: value for key, value in (given or {}).items() if value is not None}}
        for name, given in zip(ids, kwargs, strict=True)
    ]
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return _item(row_id, prompt, kind="instruction", instructions=listed, prompt=asked)


def _reasoning_gym(row: Row) -> SampledItem:
    entry = {name: row[name] for name in ("question", "answer", "metadata")}
    dataset = row.get("dataset") or row["metadata"]["source_dataset"]
    return _item(None, f"{row['question'].rstrip()}\n\n{ANSWER_FORMAT}", kind="logic", dataset=dataset, entry=entry)


CONVERTERS: Mapping[str, Callable[[Row], SampledItem | Item]] = {
    "deepscaler": _deepscaler,
    "eurus-2-code": _eurus_code,
    "scp-116k": _scp,
    "reasoning-gym": _reasoning_gym,
    "llama-nemotron-if": _llama_nemotron,
    "gsm8k": _gsm8k,
    "math": _math,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "ifeval": _ifeval,
}


def converted(name: str, path: Path, refused: list[str]) -> Iterator[SampledItem | Item]:
    """Items of the file's rows; the reasons of refused rows are appended to `refused`. Raises `BadInput`."""
    for number, row in enumerate(read_rows(path), 1):
        try:
            item = convert(name, row)
        except RowRefused as error:
            refused.append(f"row {number}: {error}")
        else:
            yield item.model_copy(update={"id": item.id or f"{name}-{number}"})
