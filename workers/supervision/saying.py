"""What the followed runs say of themselves is written, many at once: by a duty of its own, which holds up no proof."""

from reprieve.models.paging import pages
from reprieve.stores.runs.reports import ReportStore
from reprieve.workers.sayings import write_all
from reprieve.workers.supervision.followed import Followed

#: Attempts that are written by one statement.
AT_ONCE = 200


class Saying:
    def __init__(self, reports: ReportStore, followed: Followed) -> None:
        self._reports, self._followed = reports, followed

    def turn(self) -> None:
        """Write what is due. What fails is due again; nothing of it is lost, since all that was said is written."""
        due = [one.sayings for one in self._followed.contexts().values() if one.sayings.is_due]
        for page in pages(due, AT_ONCE):
            found = [(sayings, news) for sayings in page if (news := sayings.news()) is not None]
            settled = write_all(self._reports, [news for _, news in found])
            for (sayings, news), is_settled in zip(found, settled, strict=True):
                if is_settled:
                    sayings.written(news)
                else:
                    sayings.put_off()
