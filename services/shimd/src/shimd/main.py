"""The shimd command: settings, zygote, service, gRPC."""

import sys

from common.api.shims.v1 import shims_pb2_grpc as rpc
from common.life import Life, run
from common.observe import metrics
from common.places import own_dirs, socket_path
from common.settings import load
from common.sys.cgroups import cgroup_directories
from shimd.adapters.zygote_process import ZygoteProcess
from shimd.service import ShimService
from shimd.servicer import Servicer
from shimd.settings import Settings


def main() -> None:
    """Run shimd until SIGTERM; the shims stay."""
    settings = load(Settings, "shimd", sys.argv[1:])

    async def serve(life: Life) -> None:
        run_dir, _ = own_dirs(settings, "shimd")
        zygote = ZygoteProcess(
            run_dir=run_dir,
            cgroups=cgroup_directories(settings.shim_cgroup),
            timeout_s=settings.spawn_timeout_s,
        )
        service = ShimService(run_dir, zygote)
        service.prepare()
        metrics.measure(service.measure)
        life.start_once_serving(zygote.run, "zygote")
        try:
            await life.serve(
                lambda server: rpc.add_ShimsServicer_to_server(Servicer(service), server),
                socket_path(settings, "shimd"),
            )
        finally:
            await zygote.close()

    run("shimd", settings, serve, own_descriptors=False)  # containers inherit the limit


if __name__ == "__main__":
    main()
