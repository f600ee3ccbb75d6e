"""Lending of what is dear to make."""

import threading
import time

from sandbox.pool import Pool


class Dear:
    def close(self) -> None: ...


def test_who_wants_to_be_alone_is_not_passed_over_for_ever() -> None:
    pool = Pool(Dear, 2)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            with pool.lend():
                time.sleep(0.002)

    others = [threading.Thread(target=come_and_go) for _ in range(8)]
    waiting = threading.Thread(target=lambda: [pool.lend(alone=True).__enter__(), over.set()])
    for thread in (*others, waiting):
        thread.start()
    alone = over.wait(60)
    over.set()
    for thread in others:
        thread.join()
    assert alone


def test_only_what_is_asked_for_is_made() -> None:
    made: list[Dear] = []

    def make() -> Dear:
        made.append(Dear())
        return made[-1]

    pool = Pool(make, 3)
    with pool.lend(alone=True) as lent:
        assert len(lent) == 1
    with pool.lend() as again, pool.lend() as other:
        assert again == lent
        assert other != lent
    assert len(made) == 2
