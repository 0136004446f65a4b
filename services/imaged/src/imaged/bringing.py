"""What brings the blobs of one manifest here: an image's layers are unpacked, an artifact's files become a layer."""

from collections.abc import Awaitable, Callable

from imaged.artifact import Artifact
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor, Platform
from imaged.ports import Content, Layers, Workplace
from imaged.pull import Unpacking, UntilWhole
from imaged.resolving import Resolved


class Bringing:
    """Knows where all of it goes.

    Args:
        content: blobs.
        layers: where they are unpacked.
        leases: know what layers are counted on.
        workplace: where the files of artifacts become a layer.
        until_whole: asked for each blob.
    """

    def __init__(
        self,
        content: Content,
        layers: Layers,
        leases: Leases,
        workplace: Workplace,
        until_whole: UntilWhole,
    ) -> None:
        self._content, self._layers, self._leases = content, layers, leases
        self._workplace, self.until_whole = workplace, until_whole

    def of(
        self,
        image: str,
        found: Resolved,
        needs: Needs,
        want: Platform,
        lazily: Callable[[Descriptor, str], Awaitable[bool]] | None = None,
    ) -> Unpacking | Artifact:
        """The work for one manifest, which begins when it is run; `lazily` is as `imaged.pull.Unpacking` has it."""
        if found.manifest.artifact_type:
            return Artifact(
                image,
                found,
                content=self._content,
                layers=self._layers,
                leases=self._leases,
                needs=needs,
                workplace=self._workplace,
                until_whole=self.until_whole,
            )
        return Unpacking(
            image,
            found,
            content=self._content,
            layers=self._layers,
            leases=self._leases,
            needs=needs,
            want=want,
            until_whole=self.until_whole,
            lazily=lazily,
        )
