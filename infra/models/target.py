"""Where champions are handed to: a local folder."""

import os
import shutil
from pathlib import Path

from infra.errors import StorageFull
from infra.models.registry import ModelVersion
from infra.objects import get
from infra.objects.manifest import scan
from infra.settings import settings


def own_target() -> "FolderTarget":
    """The folder that the settings name."""
    return FolderTarget(settings().serving_folder or settings().home / "serving")


class FolderTarget:
    """Keeps models as folders: FOLDER/<model>/<version>, and the link `champion` to one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def deploy(self, version: ModelVersion) -> str:
        """Copy, verify, then move the link in one step; a reader sees the old or the new model."""
        model = self.folder / version.model
        place = model / version.version
        link = model / f".champion.{os.getpid()}"
        try:
            model.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(version.version)  # first: it says whether the folder can be written
            try:
                self._copy(version, place)
                link.replace(model / "champion")
            finally:
                link.unlink(missing_ok=True)
        except (OSError, StorageFull) as error:
            raise StorageFull(
                f"cannot deploy to {model}: {getattr(error, 'message', error)}",
                "Let NIGHTSHIFT_SERVING_FOLDER name a folder with space that can be written.",
            ) from error
        return self.place(version.model)

    def place(self, model: str) -> str:
        """Where the champion of a model lies once one is deployed."""
        return str(self.folder / model / "champion")

    def _copy(self, version: ModelVersion, place: Path) -> None:
        if place.exists() and scan(place).sha256 != version.sha256:
            shutil.rmtree(place)  # altered since: the stored artefact is what counts
        get(version.uri, place, version.sha256)
