"""The directories of cache mounts: removed whole or not at all, and held by one build at a time when they are not shared."""

from contextlib import ExitStack
from pathlib import Path

from slipway.building import caches


def made(data_dir: Path) -> caches.Cache:
    with ExitStack() as stack:
        path, new = caches.held(str(data_dir), "apt", alone=False, stack=stack)
        assert new
        path.mkdir()
        (path / "file").write_text("x")
    (found,) = caches.listed(str(data_dir))
    return found


def names(data_dir: Path) -> set[str]:
    return {path.suffix for path in (data_dir / "build-cache").iterdir()}


def test_a_removal_that_was_interrupted_is_in_the_way_of_none(tmp_path: Path) -> None:
    cache = made(tmp_path)
    for left in (cache.path.with_suffix(".going"), cache.path.with_name(f"{cache.path.name}.x.going")):
        (left / "cache").mkdir(parents=True)
    assert caches.remove(cache)
    assert names(tmp_path) == {".lock", ".going"}
    caches.sweep(str(tmp_path))
    assert names(tmp_path) == {".lock"}


def test_what_is_left_of_a_cache_that_a_build_uses_again_stays(tmp_path: Path) -> None:
    cache = made(tmp_path)
    with ExitStack() as stack:
        caches.held(str(tmp_path), "apt", alone=False, stack=stack)
        cache.path.with_suffix(".going").mkdir()
        assert not caches.remove(cache)
        caches.sweep(str(tmp_path))
        assert names(tmp_path) == {"", ".lock", ".going"}
