"""What is wrong with the fleet, as `reprieve health`, the page and `/health/ready` say it, a sentence each."""

from reprieve.models.health import Pulse, ailments, refused
from reprieve.models.lanes import unserved
from reprieve.workers.bootstrap import Services


def complaints(services: Services, pulse: Pulse | None) -> list[str]:
    """Everything that is wrong, with what does not keep the fleet from its work."""
    return ailments(pulse, services.timing) + services.nodes.complaints(services.timing) + setbacks(services)


def setbacks(services: Services) -> list[str]:
    """What fails and does not keep the fleet from its work: it stays owed until it is done."""
    idle = [unserved(lane) for lane in services.lanes.unserved(services.timing.worker_gone_after)]
    retention = services.retention.state()
    return [
        *refused(services.archives.refusals()),
        *services.setbacks.complaints(),
        *services.notices.outbox().complaints,
        *(retention.complaints(services.database.now()) if retention else ()),
        *idle,
    ]
