"""What a runtime's list of processes says of descent."""

from shimd.shim.sandboxedgroup import descendants_listed

TABLE = """UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         1         0         0         ?         18:54     0s        cat
0         3         0         0         ?         18:54     10ms      sh
0         4         3         0         ?         18:54     10ms      sh
0         6         4         0         ?         18:54     0s        sleep
0         7         1         0         ?         18:54     0s        sleep
"""


def test_descendants_are_found_and_a_daemon_is_not() -> None:
    assert descendants_listed(TABLE, {3}) == {4, 6}
    assert descendants_listed(TABLE, {3, 4, 6}) == set()


def test_an_answer_that_is_no_table_lists_nothing() -> None:
    for text in ("", "[1,2,3]", "UID\n0\n"):
        assert descendants_listed(text, {3}) == set()
