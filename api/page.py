"""The page at `/`, and the browser session that keeps a token. Its files need no build and load nothing else."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, HTTPException, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from reprieve.api.access import Wired, cookie_name, holder_of, root_path
from reprieve.api.problems import answers

router = APIRouter()

FILES = Path(__file__).parent / "page_files"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

#: Only our own scripts and styles: a run's output cannot inject any.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
def index(request: Request, wired: Wired, token: str | None = None) -> Response:
    """The page. A token in its address, as `reprieve up` prints it, becomes the cookie and leaves the address.

    By a relative address: whatever path a proxy has us below, and whether it says so or not.
    """
    if token is None:
        return _file("index.html")
    answer = RedirectResponse("./", 303, {"Cache-Control": "no-store"})
    if holder_of(wired, token) is not None:
        _keep(answer, request, token)
    return answer


@router.head("/page/{name}", include_in_schema=False)
@router.get("/page/{name}", include_in_schema=False)
def file(name: str) -> FileResponse:
    return _file(name)


def _file(name: str) -> FileResponse:
    """One of the known files, by name: nothing from outside becomes a path."""
    if name not in {path.name for path in FILES.iterdir()}:
        raise HTTPException(404, "The page has no such file.")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return FileResponse(FILES / name, media_type=TYPES[Path(name).suffix], headers=headers)


@router.post("/session", status_code=204, include_in_schema=False, responses=answers(401))
def begin(request: Request, wired: Wired, token: Annotated[str, Body(embed=True)]) -> Response:
    """Keep a token in a cookie that scripts cannot read and other sites cannot send."""
    if holder_of(wired, token) is None:
        raise HTTPException(401, "The token is not known here; `reprieve token create` makes one.")
    answer = Response(status_code=204)
    _keep(answer, request, token)
    return answer


def _keep(answer: Response, request: Request, token: str) -> None:
    secure = request.url.scheme == "https"
    path = f"{root_path(request)}/"
    answer.set_cookie(cookie_name(request), token, path=path, httponly=True, samesite="strict", secure=secure)


@router.get("/session", include_in_schema=False)
def session(request: Request) -> dict[str, bool]:
    """Whether this browser has a session."""
    return {"kept": cookie_name(request) in request.cookies}


@router.delete("/session", status_code=204, include_in_schema=False)
def end(request: Request) -> Response:
    """Forget the token."""
    answer = Response(status_code=204)
    path = f"{root_path(request)}/"
    answer.delete_cookie(cookie_name(request), path=path, httponly=True, samesite="strict")
    return answer
