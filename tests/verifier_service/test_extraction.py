"""Answers taken out of completions: what counts as complete, which one is last, and that no text makes it slow."""

import time

import pytest

from verifier_service.extraction import (
    after_thinking,
    answer_tag,
    boxes,
    code_block,
    code_blocks,
    last_boxed,
    stated_answer,
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{ \boxed{3} ", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\fbox{5}", "5"),
        (r"$\boxed 12$", "12"),
        (r"\boxed{}", ""),
        (r"\boxedness{5}", None),
        (r"\boxed{5", None),
        ("", None),
    ],
)
def test_last_boxed_is_the_last_complete_outermost_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_boxes_know_where_they_stand() -> None:
    text = r"a \boxed{1} b \boxed{22}"
    assert [text[box.start : box.end] for box in boxes(text)] == [r"\boxed{1}", r"\boxed{22}"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 42 </answer>", "42"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>a <answer>b</answer>", "a <answer>b"),
        ("<answer></answer>", ""),
        ("<ANSWER>1</ANSWER>", None),
        ("</answer>1<answer>", None),
    ],
)
def test_answer_tag_pairs_as_reasoning_gym(text: str, answer: str | None) -> None:
    from reasoning_gym.utils import extract_answer

    assert answer_tag(text) == answer == extract_answer(text)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("```py\na\n```\nbetter:\n```python\nb\n```", "b"),
        ("```\na\n```", "a"),
        ("```python\na\n```\nIt prints\n```\nout\n```", "a"),
        ("```python\na\n```\n```cpp\nb\n```", "a"),
        ("```cpp\nb\n```", None),
        ("```python\na\n```\n```python\ntrunca", "a"),
        ("```python\ntrunca", None),
        ("```python\na\n```python\nb\n```", "b"),
        ('```python\nx = """\n    ```py\n    ```"""\n```', 'x = """\n    ```py\n    ```"""'),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("~~~python\na\n~~~", "a"),
        ("1. first\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("The code: ```python\na\n```<|im_end|>", "a"),
        ("```Python\na\r\n```\r\n", "a\r"),
        ("no fence", None),
    ],
)
def test_code_block_is_the_last_complete_one_in_the_language(text: str, source: str | None) -> None:
    assert code_block(text, "python") == source


def test_code_blocks_keep_the_tag() -> None:
    assert [block.tag for block in code_blocks("```C++\na\n```\n```\nb\n```")] == ["c++", ""]
    assert code_block("```C++\na\n```\n```c\nb\n```", "cpp") == "a"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 3.14. Good.", "3.14"),
        ("The answer is 2. No, the answer is 5", "5"),
        ("**Answer**: (B) red", "(B) red"),
        ("Final answer: **5**\nbecause", "5"),
        ("答案是：5。", "5"),
        ("La réponse est C", "C"),
        ("The answers differ", None),
        ("The answer is", None),
    ],
)
def test_stated_answer_is_the_last_sentence_that_states_one(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("completion", "thinking", "text"),
    [
        ("<think>a</think>b", "strip", "b"),
        ("a</think>b</think>c", "strip", "c"),
        ("<think>a", "strip", "<think>a"),
        ("<think>a", "require", None),
        ("a</think>b", "keep", "a</think>b"),
    ],
)
def test_after_thinking(completion: str, thinking: str, text: str | None) -> None:
    assert after_thinking(completion, thinking) == text  # type: ignore[arg-type]


HOSTILE = {
    "nested braces": "{" * 10**6,
    "nested boxes": r"\boxed{" * 10**5 + "}" * 10**5,
    "many boxes": r"\boxed{1}" * 10**5,
    "open boxes": r"\boxed{" * 10**5,
    "box and blanks": r"\boxed" + " " * 10**6,
    "backslashes": "\\" * 10**6,
    "open tags": "<answer>" * 10**5,
    "tag pairs": "<answer>1</answer>" * 10**5,
    "open fences": "```python\n" * 10**5,
    "backticks": "`" * 10**6,
    "fences": "```\n" * 10**5,
    "stated": "the answer is " * 10**5,
    "emphasis": "answer:" + "*" * 10**6,
    "blanks": "answer is" + " " * 10**6,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_takes_milliseconds(name: str) -> None:
    text = HOSTILE[name]
    started = time.process_time()
    for extract in (last_boxed, answer_tag, code_blocks, stated_answer):
        extract(text)  # type: ignore[operator]
    assert time.process_time() - started < 1.5  # measured: 0.3 s at most; a quadratic scan would take minutes
