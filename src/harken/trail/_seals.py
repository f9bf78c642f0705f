"""
Checkpoints: what they say about the log, and who vouches for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from harken.record import evolved, seal_message, seal_of
from harken.trail._line import Line
from harken.trail.findings import Findings, Weight
from harken.trail.keys import Key, PublicKey, WriterState

# How many keys are derived at most to reach an epoch that a checkpoint claims: nobody can make a
# verifier count to 10^18.
_MOST_EPOCHS = 20_000_000


class Checkpoint(msgspec.Struct, frozen=True):
    """
    The metadata of a checkpoint.
    """

    count: int
    head: str
    segment: int
    mono_ns: int
    epoch: int | None = None
    key_id: str | None = None
    mac: str | None = None
    signing_key_id: str | None = None
    signature: str | None = None

    @property
    def message(self) -> bytes:
        """
        What mac and signature cover.
        """
        return seal_message(
            epoch=self.epoch,
            count=self.count,
            head=self.head,
            segment=self.segment,
            mono_ns=self.mono_ns,
        )


class _Record(msgspec.Struct):
    metadata: Checkpoint


class _Ratchet:
    """
    Follows the epochs of one key.

    Attributes:
        epoch: That of the seal which comes next.

        verified: How many seals were.
    """

    def __init__(self, key: Key) -> None:
        self.id = key.id
        self.epoch = 0
        self.verified = 0
        self.last: Checkpoint | None = None
        self._first = key.secret
        self._secret = key.secret
        self._budget = _MOST_EPOCHS

    def take(self, checkpoint: Checkpoint, epoch: int) -> bool:
        """
        Return whether *checkpoint* has the seal of *epoch*, which is this one or a later one.
        """
        steps = epoch - self.epoch
        if steps > self._budget:
            return False
        self._budget -= steps
        secret = self._secret
        for _ in range(steps):
            secret = evolved(secret)
        genuine = checkpoint.mac == seal_of(secret, checkpoint.message)
        if genuine or not steps:
            # A forged seal stands in for the one of its epoch; it cannot make later ones look old.
            self._secret = evolved(secret)
            self.epoch = epoch + 1
        if genuine:
            self.verified += 1
            self.last = checkpoint
        return genuine

    def is_at(self, state: WriterState) -> bool | None:
        """
        Return whether a writer has the key that it must have; None when that takes too long.
        """
        if state.epoch > self.epoch and state.epoch - self.epoch > self._budget:
            return None
        secret, start = self._secret, self.epoch
        if state.epoch < self.epoch:
            secret, start = self._first, 0
        for _ in range(state.epoch - start):
            secret = evolved(secret)
        return secret == state.secret


class Seals:
    """
    Judges the checkpoints of a log, in the order in which they stand there.

    Args:
        hash_of: The hash of the line with this number; None when it is too far back, or missing.

        vouch: Told up to which line something vouches for the log.

    Attributes:
        known_seq: The last line that the key file of a writer knows; 0 without one.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        public_keys: Iterable[PublicKey],
        findings: Findings,
        hash_of: Callable[[int], str | None],
        vouch: Callable[[int], None],
    ) -> None:
        self.checkpoints = 0
        self.sealed = 0
        self.signed = 0
        self.signatures = 0
        self.known_seq = 0
        self._ratchets = {key.id: _Ratchet(key) for key in keys}
        self._public_keys = {key.id: key for key in public_keys}
        self._used: set[str] = set()
        self._findings = findings
        self._hash_of = hash_of
        self._vouch = vouch
        # Whether lines are missing since the last seal, so that seals may be, too.
        self._gap = False
        self._ended: set[str] = set()
        self._last_used = ""
        # Keys that nobody gave, with the place of their first seal.
        self._unknown: dict[str, tuple[str, int]] = {}

    @property
    def asked(self) -> bool:
        """
        Whether there is anything to check seals with.
        """
        return bool(self._ratchets or self._public_keys)

    @property
    def has_keys(self) -> bool:
        """
        Whether there is a key of a ratchet.
        """
        return bool(self._ratchets)

    @property
    def has_public_keys(self) -> bool:
        """
        Whether there is a public key.
        """
        return bool(self._public_keys)

    @property
    def verified(self) -> int:
        """
        How many seals of the given keys are right.
        """
        return sum(ratchet.verified for ratchet in self._ratchets.values())

    @property
    def knows_the_end(self) -> bool:
        """
        Whether the key file of the last writer says that the log ends where it does.
        """
        return self._last_used in self._ended

    def gap(self) -> None:
        """
        Note that lines are missing before the next one, and that this was said.
        """
        self._gap = True

    def judge(self, line: Line, file: str, number: int) -> None:
        """
        Judge the checkpoint in *line*.
        """
        self.checkpoints += 1
        try:
            checkpoint = msgspec.json.decode(line.content, type=_Record).metadata
        except msgspec.DecodeError as error:
            self._add("checkpoint", "tampered", file, number, f"the checkpoint is none: {error}")
            return
        fits = self._fits(checkpoint, line, file, number)
        vouched = False
        if checkpoint.mac is not None and checkpoint.key_id is not None:
            self.sealed += 1
            vouched = self._judge_seal(checkpoint, checkpoint.key_id, file, number)
        if checkpoint.signature is not None and checkpoint.signing_key_id is not None:
            self.signed += 1
            signed = self._judge_signature(checkpoint, checkpoint.signing_key_id, file, number)
            vouched = vouched or signed
        if fits and vouched:
            self._vouch(checkpoint.count)

    def end(
        self, states: Iterable[WriterState], seq: int, file: str, number: int, *, must: bool
    ) -> None:
        """
        Judge what was missed.

        Args:
            seq: The number of the last line.

            must: Whether a log that is as long as this one, or ended as it did, has a seal.
        """
        for state in states:
            ratchet = self._ratchets.get(state.key_id)
            if ratchet is not None:
                self._used.add(ratchet.id)
                self._compare(ratchet, state, file, number)
                self.known_seq = max(self.known_seq, state.seq)
                if state.ended and state.seq == seq and state.head == self._hash_of(seq):
                    self._ended.add(ratchet.id)
        for key_id, (where, line) in self._unknown.items():
            self._add(
                "key",
                "undecided",
                where,
                line,
                f"from here on the log is sealed with the key {key_id}, which was not given",
            )
        unused = [name for name in (*self._ratchets, *self._public_keys) if name not in self._used]
        if not unused or self._unknown:
            return
        names = " and ".join(unused)
        if must:
            self._add(
                "no_seal",
                "tampered",
                file,
                number,
                f"nothing in the log is sealed with the key {names}: it never was, or the seals "
                "were removed",
            )
        else:
            self._add(
                "no_seal",
                "undecided",
                file,
                number,
                f"nothing in the log is sealed with the key {names} yet",
            )

    def _fits(self, checkpoint: Checkpoint, line: Line, file: str, number: int) -> bool:
        """
        Return whether the line that the checkpoint speaks of is the one in the log.
        """
        if checkpoint.count >= line.seq:
            message = f"the checkpoint speaks of the line {checkpoint.count}, which comes later"
        else:
            known = self._hash_of(checkpoint.count)
            if known is None or known == checkpoint.head:
                return known is not None
            message = f"the line {checkpoint.count} has another hash than the checkpoint says"
        self._add("head", "tampered", file, number, message)
        return False

    def _judge_seal(self, checkpoint: Checkpoint, key_id: str, file: str, number: int) -> bool:
        ratchet = self._ratchets.get(key_id)
        if ratchet is None:
            if self._ratchets:
                self._unknown.setdefault(key_id, (file, number))
            return False
        self._used.add(key_id)
        self._last_used = key_id
        epoch = -1 if checkpoint.epoch is None else checkpoint.epoch
        if epoch < ratchet.epoch:
            if checkpoint == ratchet.last:
                return True
            self._add(
                "epoch",
                "tampered",
                file,
                number,
                f"the seal of epoch {epoch} stands behind that of epoch {ratchet.epoch - 1}",
            )
            return False
        expected = ratchet.epoch
        if not ratchet.take(checkpoint, epoch):
            self._add("mac", "tampered", file, number, f"the seal of epoch {epoch} is forged")
            return False
        if epoch > expected:
            self._missing(expected, epoch - 1, file, number)
        self._gap = False
        return True

    def _missing(self, first: int, last: int, file: str, number: int) -> None:
        which = f"the seals {first} to {last}" if last > first else f"the seal {first}"
        if self._gap:
            self._add(
                "epoch", "note", file, number, f"{which} stood in lines that are not here any more"
            )
        else:
            self._add("epoch", "tampered", file, number, f"{which} should stand before this line")

    def _judge_signature(self, checkpoint: Checkpoint, key_id: str, file: str, number: int) -> bool:
        key = self._public_keys.get(key_id)
        if key is None:
            if self._public_keys:
                self._unknown.setdefault(key_id, (file, number))
            return False
        self._used.add(key_id)
        try:
            signature = bytes.fromhex(checkpoint.signature or "")
        except ValueError:
            signature = b""
        if not key.verify(signature, checkpoint.message):
            self._add("signature", "tampered", file, number, "the signature is forged")
            return False
        self.signatures += 1
        return True

    def _compare(self, ratchet: _Ratchet, state: WriterState, file: str, number: int) -> None:
        last = state.epoch - 1 - state.pending
        if ratchet.is_at(state) is False:
            self._add(
                "state",
                "tampered",
                state.path,
                0,
                f"the key of epoch {state.epoch} does not follow from the first key",
            )
        elif ratchet.epoch <= last:
            self._add(
                "epoch",
                "tampered",
                file,
                number,
                f"the log ends with the seal {ratchet.epoch - 1}, and its writer has made the seal "
                f"{last}: the end was cut off"
                if ratchet.epoch
                else f"the log has no seal, and its writer has made the seal {last}: they were cut "
                "off",
            )
        elif self._hash_of(state.seq) not in (None, state.head):
            self._add(
                "head",
                "tampered",
                file,
                number,
                f"the line {state.seq} has another hash than {state.path} says: it, or a line "
                "before it, was rewritten",
            )

    def _add(self, kind: str, weight: Weight, file: str, number: int, message: str) -> None:
        self._findings.add("seals", kind, weight, file, number, message)
