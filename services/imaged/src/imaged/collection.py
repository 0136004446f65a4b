"""Which images go, and why each goes or stays: rules, a plan that explains itself, and its execution.

Never an image that a container stands on, that is pinned, or that running work counts on.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common import buildcache
from common.clock import now_ns
from common.errors import InvalidArgumentError
from common.observe.log import get_logger
from imaged.catalog import Catalog
from imaged.leases import Leases
from imaged.ports import Content, Layers
from imaged.record import ImageRecord
from imaged.reference import Reference

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Rules:
    """What may go; all that are given must hold. Without any, images without a name."""

    tagged: bool = False
    """Also images with names."""
    build_caches: bool = False
    """Also images that only builds named."""
    older_than_s: float = 0.0
    """Only those that were last used longer ago."""
    keep_last: int = 0
    """Not the newest ones of each repository, so many."""
    max_bytes: int = 0
    """Only until blobs and layers take no more than this, first what was not used for the longest time; what nobody needs is not counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an image."""

    image: ImageRecord
    goes: bool
    why: str
    frees_blob_bytes: int = 0
    frees_layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What neither an image nor running work needs, as of pulls that failed."""

    blobs: int
    blob_bytes: int
    layers: int
    layer_bytes: int


@dataclass(slots=True)
class Sizes:
    """What each blob and layer that somebody needs takes, and how many images need it."""

    blobs: Mapping[str, int]
    layers: Mapping[str, int]
    users: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(self, record: ImageRecord, step: int) -> tuple[int, int]:
        """Count an image in or out; returns the bytes of blobs and layers that only it has."""
        freed = [0, 0]
        for number, (things, sizes) in enumerate(
            ((record.blobs, self.blobs), (set(record.diff_ids), self.layers))
        ):
            for thing in things:
                self.users[thing] += step
                if not self.users[thing]:
                    freed[number] += sizes.get(thing, 0)
        return freed[0], freed[1]


def plan(
    images: list[ImageRecord],
    rules: Rules,
    sizes: Sizes,
    protected: Mapping[str, str],
    *,
    at_ns: int,
) -> list[Verdict]:
    """A verdict for each image, what was not used for the longest time first. Pure.

    Args:
        images: all.
        rules: what may go.
        sizes: of what they have.
        protected: why an image must stay whatever the rules say, by id.
        at_ns: now.
    """
    for record in images:
        sizes.count(record, 1)
    total = sum(sizes.blobs.values()) + sum(sizes.layers.values())
    newest = _newest(images, rules.keep_last)
    verdicts = []
    for record in sorted(images, key=lambda r: (r.last_used_ns, r.id)):
        age_s = max(0.0, (at_ns - record.last_used_ns) / 1e9)
        why = protected.get(record.id) or _stays(record, rules, age_s, newest)
        if not why and rules.max_bytes and total <= rules.max_bytes:
            why = f"{total} bytes are within the {rules.max_bytes} allowed"
        if why:
            verdicts.append(Verdict(record, goes=False, why=why))
            continue
        blob_bytes, layer_bytes = sizes.count(record, -1)
        total -= blob_bytes + layer_bytes
        kind = "" if record.repo_tags else "has no name, "
        verdicts.append(Verdict(record, True, f"{kind}{_since(record, age_s)}", blob_bytes, layer_bytes))
    return verdicts


def _stays(record: ImageRecord, rules: Rules, age_s: float, newest: Mapping[str, str]) -> str:
    cached = rules.build_caches and buildcache.is_cache(record.repo_tags)
    if record.repo_tags and not (rules.tagged or cached):
        return f"has the name {(buildcache.given(record.repo_tags) or record.repo_tags)[0]}"
    if age_s < rules.older_than_s:
        return f"{_since(record, age_s)}, which is less than {_age(rules.older_than_s)}"
    return newest.get(record.id, "")


def _newest(images: list[ImageRecord], count: int) -> dict[str, str]:
    """Why an image is among the newest of a repository, by id."""
    found: dict[str, str] = {}
    repositories: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in sorted(images, key=lambda r: -r.pulled_at_ns):
        for name in {Reference.parse(name).repository for name in record.names}:
            repositories[name].append(record)
    for name, records in repositories.items():
        for record in records[:count]:
            found[record.id] = f"is among the {count} newest of {name}"
    return found


def _since(record: ImageRecord, age_s: float) -> str:
    if record.used_at_ns > record.pulled_at_ns:
        return f"last used {_age(age_s)} ago"
    return f"came {_age(age_s)} ago, not used since"


def _age(seconds: float) -> str:
    return next((f"{int(seconds // unit)} {name}" for unit, name in _UNITS if seconds >= unit), "0 s")


class Collector:
    """Removes images by rules.

    Args:
        catalog: has the images.
        leases: know what is in use and under way.
        content: blobs.
        layers: unpacked layers.
        pin_of: the glob that pins an image; empty for none.
    """

    def __init__(
        self,
        catalog: Catalog,
        leases: Leases,
        content: Content,
        layers: Layers,
        pin_of: Callable[[ImageRecord], str],
    ) -> None:
        self._catalog, self._leases = catalog, leases
        self._content, self._layers, self._pin_of = content, layers, pin_of

    async def collect(self, rules: Rules, *, dry_run: bool) -> list[Verdict]:
        """Decide about each image, and remove those that go unless it is a dry run.

        Raises:
            InvalidArgumentError: a rule is negative.
            UnavailableError: snapshotd is away: nobody knows then what is in use.
        """
        if min(rules.older_than_s, rules.keep_last, rules.max_bytes) < 0:
            raise InvalidArgumentError(f"collection: {rules}: ages, counts and sizes are not negative")
        held = {layer.diff_id: layer.size_bytes for layer in await self._layers.list_layers()}
        in_use = await self._leases.in_use()
        if not dry_run:
            await self._note(in_use)
        images = self._catalog.all()
        needed = self._leases.needed()
        blobs = {digest: self._content.size(digest) or 0 for digest in needed.digests}
        stood_on = {diff_id for stack in in_use for diff_id in stack}
        layers = {d: size for d, size in held.items() if d in needed.diff_ids or d in stood_on}
        at_ns = now_ns()
        protected = {r.id: why for r in images if (why := self._protection(r, in_use, at_ns))}
        verdicts = plan(images, rules, Sizes(blobs, layers), protected, at_ns=at_ns)
        if not dry_run:
            for verdict in verdicts:
                if verdict.goes:
                    await self._remove(verdict)
        return verdicts

    async def sweep(self, older_than_s: float, *, dry_run: bool) -> Leftovers:
        """Remove what nobody needs and is older, unless it is a dry run.

        Raises:
            UnavailableError: snapshotd is away.
        """
        # the age of a layer is not known
        layers = {} if older_than_s else await self._leases.collect_layers(dry_run=dry_run)
        blobs = await self._leases.collect_blobs(older_than_s, dry_run=dry_run)
        return Leftovers(len(blobs), sum(blobs.values()), len(layers), sum(layers.values()))

    async def note_use(self) -> None:
        """Remember of what containers stand on that it is used now: so its age begins when the last of them is gone."""
        await self._note(await self._leases.in_use())

    async def _note(self, in_use: set[tuple[str, ...]]) -> None:
        for record in self._catalog.all():
            if record.diff_ids in in_use:
                await self._catalog.use(record.id, now_ns())

    def _protection(self, record: ImageRecord, in_use: set[tuple[str, ...]], at_ns: int) -> str:
        if record.diff_ids in in_use:
            return "a container stands on its layers"  # made from it, or from another that has the same
        pin = self._pin_of(record)
        if pin:
            return f"is pinned by {pin!r}"
        lease = record.lease_at(at_ns)
        if lease:
            left_s = (record.leases[lease] - at_ns) / 1e9
            return f"the lease {lease!r} holds it for {_age(left_s)} more"
        return "work is under way with it" if self._leases.is_held(record) else ""

    async def _remove(self, verdict: Verdict) -> None:
        """Remove an image that is still what the plan saw."""
        record = verdict.image
        if self._leases.is_held(record) or not await self._catalog.remove_unchanged(record):
            return
        await self._leases.collect(record.blobs, set(record.diff_ids))
        _log.info(
            "image.collected",
            image_id=record.id,
            names=record.names,
            why=verdict.why,
            freed_bytes=verdict.frees_blob_bytes + verdict.frees_layer_bytes,
        )
