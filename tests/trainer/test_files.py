"""Folders that take each other's place."""

from pathlib import Path

import pytest

from trainer.files import finish_replacing, folder_atomically


def write(folder: Path, text: str) -> None:
    with folder_atomically(folder) as unfinished:
        (unfinished / "file").write_text(text)


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write(tmp_path / "f", text)
    assert (tmp_path / "f" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("num_renames", "found"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_crash_at_any_rename_leaves_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int, found: str
) -> None:
    write(tmp_path / "f", "old")
    renamed: list[Path] = []

    def dying(path: Path, target: Path) -> Path:
        if len(renamed) == num_renames:
            raise KeyboardInterrupt
        renamed.append(path)
        path.rename(target)
        return target

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        patched.setattr("trainer.files.sync_directory", die)  # the moment after both renames
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "f", "new")
    finish_replacing(tmp_path)
    assert (tmp_path / "f" / "file").read_text() == found
    assert not list(tmp_path.glob(".*.old"))
