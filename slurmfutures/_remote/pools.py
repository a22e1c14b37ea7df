"""All pools of pilots of one client. Everything runs in the agent's loop."""

from typing import Any, Callable, Dict, Mapping, Optional

from . import payload, wire
from .pool import NEVER_DUE, Pool
from .pool_job import Surroundings

__all__ = ["Pools", "Surroundings", "is_pools"]

POOL_BITS = 40  # a call's number is its pool's, above this many bits, and its own


class Pools:
    """All pools of one client."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._pools: Dict[int, Pool] = {}

    def message(self, head: Mapping[str, Any], body: wire.Body, reply: Optional[Callable[..., None]]) -> None:
        """Do what the client says; raises OSError where a pool cannot be opened."""
        op, number = head["op"], head["pool"]
        pool = self._pools.get(number)
        if op == "pool_open":
            assert reply is not None
            if pool is None:
                pool = self._pools[number] = Pool(self._around, head, body)
                try:
                    pool.begin()
                except OSError:
                    self._pools.pop(number).stop(for_good=False)
                    raise
            reply({"handed": pool.handed})
        elif pool is None:
            if reply is not None:
                reply({})
        elif op == "function":
            pool.function(head["function"], body, head["ship"])
        elif op == "drop":
            pool.drop(head["function"])
        elif op == "pool_cancel":
            pool.cancel(head["calls"])
        elif op == "pool_ack":
            pool.acknowledge(body)
        elif op == "pool_sent":
            pool.sent_again(head["keep"])
        elif op == "pool_state":
            assert reply is not None
            reply(pool.state())
        elif op == "pool_close":
            assert reply is not None
            self._close(number, pool, reply)

    def _close(self, number: int, pool: Pool, reply: Callable[..., None]) -> None:
        def then(words: Mapping[str, Any]) -> None:
            if self._pools.pop(number, None) is not None:
                pool.stop(for_good=True)
            reply(words)

        pool.close(then)

    def calls(self, data: wire.Body) -> None:
        """Take calls of one pool."""
        pool = self._pools.get(payload.first_call(data) >> POOL_BITS)
        if pool is not None:
            pool.calls(data)

    def owner(self, batch: str) -> Optional[Pool]:
        """Return the pool whose jobs a batch has."""
        return next((pool for pool in self._pools.values() if pool.owns(batch)), None)

    def shipping(self, ship: str) -> None:
        for pool in self._pools.values():
            pool.shipping(ship)

    def shipping_changed(self, ship: str = "", why: str = "") -> None:
        for pool in list(self._pools.values()):
            pool.shipping_changed(ship, why)

    def tick(self, now: float) -> Optional[float]:
        at = min((pool.tick(now) for pool in list(self._pools.values())), default=NEVER_DUE)
        return None if at == NEVER_DUE else at

    def stop(self) -> None:
        """Let go of all pools, whose pilots look for another agent."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.stop(for_good=False)


def is_pools(data: wire.Body) -> bool:
    """Whether a frame of calls is for a pool, and not for the login node."""
    return bool(payload.first_call(data) >> POOL_BITS)
