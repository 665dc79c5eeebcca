import pytest

from chatwright.training import progress as module
from chatwright.training.progress import progress, show_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock the test moves: clock[0] is now, in seconds."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_library_call_prints_nothing(capfd):
    with progress("PPO", total=2) as bar:
        bar.advance(1, kl=0.1)
    assert capfd.readouterr() == ("", "")


def test_off_a_terminal_a_line_appears_every_ten_seconds_and_one_at_the_end(capsys, clock):
    with show_progress(), progress("PPO", total=40, unit="iterations") as bar:
        for second in (4, 8, 12, 16):  # four seconds an iteration: only the third comes ten seconds after the start
            clock[0] = second
            bar.advance(1, kl=second / 100)
        bar.advance(36)
        clock[0] = 18
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "PPO: 3/40 iterations 0:12 elapsed, 2:28 left kl 0.12",
        "PPO: 40/40 iterations in 0:18 kl 0.16",
    ]


def test_the_time_left_counts_only_what_this_attempt_did(capsys, clock):
    with show_progress(), progress("PPO", total=40, unit="iterations", done=30) as bar:
        clock[0] = 10
        bar.advance(5)
        bar.advance(5)
    assert capsys.readouterr().err.splitlines()[0] == "PPO: 35/40 iterations 0:10 elapsed, 0:10 left"


def test_work_that_fails_says_where_it_stopped(capsys, clock):
    def judge():
        with progress("Judging", total=8, unit="pairs") as bar:
            bar.advance(3)
            clock[0] = 3725
            raise RuntimeError

    with show_progress(), pytest.raises(RuntimeError):
        judge()
    assert capsys.readouterr().err == "Judging: 3/8 pairs stopped after 1:02:05\n"


def test_on_a_terminal_an_inner_bar_is_drawn_with_the_outer_one_and_stdout_stays_clean(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with show_progress(), progress("PPO", total=2, unit="iterations") as outer:
        for _ in range(2):
            with progress("sampling", total=8) as inner:
                inner.advance(8)
            outer.advance(1, kl=0.125)
        print("machine-readable")
    out, err = capsys.readouterr()
    assert out == "machine-readable\n"
    assert "PPO" in err
    assert "2/2" in err
    assert "kl 0.125" in err


def test_bars_are_silent_again_after_the_block(capfd):
    with show_progress():
        pass
    with progress("PPO", total=1) as bar:
        bar.advance()
    assert capfd.readouterr().err == ""
