"""How a worker of runs comes by its name: leased from its data folder, and not one that is held elsewhere.

Two data folders may give one name: of a copied machine, or of replicas for which somebody has set it. The workers that
were seen lately tell (`stores.nodes`). Who comes second takes another name or, where the name was set by hand, does not
start. Nobody takes the other's work for gone meanwhile: work is found by the id of the slot, which differs.
"""

import logging
import time

from sqlalchemy.exc import DBAPIError

from reprieve.models.errors import NoIdentity
from reprieve.models.nodes import Node
from reprieve.stores.nodes import Rival
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)

#: Seconds between two looks whether another holder of our name is still seen.
LOOK_INTERVAL = 0.5


def take_name(services: Services) -> Node:
    """Hold a name that no live worker elsewhere holds. Raises `NoIdentity`."""
    refused: set[str] = set()
    while True:
        lease = services.identity.held(without=refused)
        # Others of this node have looked already, and may have started first.
        rival = _rival(services, lease.node) if lease.is_first else None
        if rival is None:
            logger.info("This node is %s, as %s has it.", lease.node.name, services.settings.data_dir)
            return lease.node
        services.identity.let_go()
        if services.identity.is_by_hand:
            raise NoIdentity(_sentence(lease.node, rival, services))
        logger.warning("The name %s is held by %s, on another data folder.", lease.node.name, rival.worker)
        refused.add(lease.node.name)


def _sentence(node: Node, rival: Rival, services: Services) -> str:
    return (
        f"The name {node.name} (REPRIEVE_NODE_NAME) is held by the worker {rival.worker}, which was seen "
        f"{rival.seen_before.total_seconds():.0f} s ago and has another data folder than {services.settings.data_dir}. "
        "Give each host a name of its own, or unset it; or give both the same data folder, if they are one host."
    )


def _rival(services: Services, node: Node) -> Rival | None:
    """Another live holder of this name. One that was killed lately is waited for: it is not seen any more."""
    try:
        since, told = services.database.now(), False
        while rivals := services.nodes.rivals(node, services.timing.worker_gone_after):
            if alive := next((one for one in rivals if one.seen_at > since), None):
                return alive
            if not told:
                logger.warning("The name %s was held by %s until lately: is it gone?", node.name, rivals[0].worker)
                told = True
            time.sleep(LOOK_INTERVAL)
    except DBAPIError as error:
        # It is told once it is seen: that a database is away keeps no worker from starting.
        logger.error("Whether %s is held elsewhere is not known (%s).", node.name, type(error.orig).__name__)
    return None
