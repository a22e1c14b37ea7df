"""When a connection counts as lost."""

from slurmfutures._heartbeat import Heartbeat


class Machine:
    """How long it has slept."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def slept(self) -> float:
        return self.seconds


def test_pings_go_out_in_thirds_and_silence_is_a_loss_after_the_limit() -> None:
    heartbeat = Heartbeat(30.0, 100.0, Machine().slept)
    asked = []
    now = 100.0
    while heartbeat.lost(now) is None:
        if heartbeat.due(now):
            asked.append(now)
        now = heartbeat.next_due()
    assert asked == [110.0, 120.0]
    assert now == 130.0
    assert heartbeat.lost(now) == "nothing was heard for 30 s"


def test_answers_keep_it_up() -> None:
    heartbeat = Heartbeat(30.0, 0.0, Machine().slept)
    for now in range(0, 1000, 5):
        heartbeat.due(now)
        assert heartbeat.lost(now) is None
        heartbeat.heard(now + 1)


def test_who_did_not_look_for_long_asks_before_he_judges() -> None:
    heartbeat = Heartbeat(30.0, 0.0, Machine().slept)
    assert heartbeat.lost(500.0) is None
    assert heartbeat.due(500.0)
    assert heartbeat.lost(510.0) is None
    assert heartbeat.lost(520.0) == "nothing was heard for 520 s"


def test_a_machine_that_slept_has_lost_its_connections() -> None:
    machine = Machine()
    machine.seconds = 1000.0  # before there was a connection
    heartbeat = Heartbeat(30.0, 0.0, machine.slept)
    machine.seconds += 20.0
    assert heartbeat.lost(1.0) is None
    machine.seconds += 11.0
    assert heartbeat.lost(1.0) == "this machine slept for 31 s"
