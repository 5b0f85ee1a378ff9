"""A stand-in for huggingface.co on loopback: what the real clients need to publish and load, and failures on demand.

Everything is kept in memory. Standard library only.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".png", ".jpg")
TOKEN = "hf_writer"


@dataclass
class Repo:
    """A repository: its branches point to commits, a commit is a map from paths to contents."""

    id: str
    type: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None  # of a Space
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)  # (revision, summary)

    def commit(self, ref: str, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{self.type}{self.id}{ref}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        self.messages.append((ref, message))
        return sha

    def sha(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path at a branch or commit."""
        return self.commits[self.sha(revision) or ""]


@dataclass
class Failure:
    """One thing that goes wrong: an answer with `status`, a body that is cut, or `delay` seconds of silence."""

    method: str
    path: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    delay: float = 0.0


class HubServer:
    """The server; `url` is what HF_ENDPOINT should be.

    Attributes:
        repos: By (type, id), with type "model", "dataset" or "space".
        tokens: Token -> the namespaces that it may write to; the first one is its user.
        requests: (method, path) of everything that was asked, in order.
        ranges: The Range headers among them.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens = {TOKEN: ["me", "kaseg"]}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.lfs: dict[str, bytes] = {}
        self.failures: list[Failure] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.RLock()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
        for connection in list(self.connections):  # kept alive by clients, who would not notice otherwise
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fail(self, method: str, path: str, times: int = 1, **what: Any) -> None:
        """Let the next `times` requests of `method` whose path matches the pattern `path` go wrong; see [`Failure`]."""
        self.failures.append(Failure(method, path, times, **what))

    def count(self, method: str, path: str) -> int:
        """How many requests there were of `method` whose path matches the pattern `path`."""
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    def repo(self, repo_id: str, type: str = "model") -> Repo:
        return self.repos[type, repo_id]

    def add_repo(self, repo_id: str, files: dict[str, bytes] | None = None, type: str = "model", **flags: Any) -> Repo:
        """Make a repository, past all checks."""
        repo = self.repos[type, repo_id] = Repo(repo_id, type, **flags)
        repo.commit("main", dict(files or {}), "initial commit")
        return repo


class _Refused(Exception):
    """An answer that ends a request: status, body and headers."""


def _error(status: int, code: str, message: str) -> _Refused:
    return _Refused(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    cut = False

    def setup(self) -> None:
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        with contextlib.suppress(OSError):  # the client may have gone
            super().finish()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query))
        self.cut = False
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            self.hub.ranges += filter(None, [self.headers.get("Range")])
        failure = self._next_failure(parts.path)
        if failure is not None and failure.delay:
            threading.Event().wait(failure.delay)
        if failure is not None and failure.cut and self.command in ("POST", "PUT"):
            self._abort()
            return
        self.body = self._read_body()
        if failure is not None and failure.status is not None:
            self._send(failure.status, {"error": f"injected {failure.status}"}, failure.headers)
            return
        self.cut = failure is not None and failure.cut
        try:
            self._handle(parts.path)
        except _Refused as refused:
            self._send(*refused.args)

    def _handle(self, path: str) -> None:
        for method, pattern, handle in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                handle(self, **{name: urllib.parse.unquote(text) for name, text in match.groupdict().items() if text})
                return
        raise _error(404, "EntryNotFound", f"no such endpoint: {self.command} {path}")

    def _next_failure(self, path: str) -> Failure | None:
        with self.hub.lock:
            for failure in self.hub.failures:
                if failure.times > 0 and failure.method == self.command and re.search(failure.path, path):
                    failure.times -= 1
                    return failure
        return None

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _abort(self) -> None:
        """Drop the connection with whatever is still unread in it."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data)

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _namespaces(self) -> list[str]:
        return self.hub.tokens.get(self._token() or "", [])

    def _require_token(self) -> list[str]:
        if not self._namespaces():
            raise _Refused(401, {"error": "Invalid username or password."})
        return self._namespaces()

    def _require_write(self, repo_id: str, opening_pr: bool = False) -> None:
        if repo_id.partition("/")[0] not in self._require_token() and not opening_pr:
            message = f"You don't have the rights to write to {repo_id}"
            raise _Refused(403, {"error": message}, {"X-Error-Message": message})

    def _find(self, type: str, id: str, revision: str | None = None) -> tuple[Repo, str]:
        """The repository and the commit."""
        repo = self.hub.repos.get((type, id))
        if repo is None or (repo.private and id.partition("/")[0] not in self._namespaces()):
            raise _error(404 if self._namespaces() else 401, "RepoNotFound", "Repository not found")
        sha = repo.sha(revision or "main")
        if sha is None:
            raise _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, sha

    # -- account and repositories

    def whoami(self) -> None:
        names = self._require_token()
        orgs = [{"type": "org", "name": name} for name in names[1:]]
        access = {"accessToken": {"displayName": "test", "role": "write"}}
        self._send(200, {"type": "user", "id": "1", "name": names[0], "orgs": orgs, "auth": access})

    def create(self) -> None:
        asked = json.loads(self.body)
        names = self._namespaces()
        repo_id = f"{asked.get('organization') or (names or ['nobody'])[0]}/{asked['name']}"
        type = asked.get("type") or "model"
        self._require_write(repo_id)
        url = f"{self.hub.url}/{_prefix(type)}{repo_id}"
        if (type, repo_id) in self.hub.repos:
            raise _Refused(409, {"error": "You already created this repo", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        sdk = asked.get("sdk")
        if (type == "space") != (sdk in ("gradio", "docker", "static", "streamlit")):
            self._send(400, {"error": f"A {type} with sdk {sdk!r}"})
            return
        self.hub.add_repo(repo_id, type=type, private=private, sdk=sdk)
        self._send(200, {"url": url, "name": repo_id, "id": "1"})

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def info(self, type: str, id: str, revision: str | None = None) -> None:
        repo, sha = self._find(type, id, revision)
        date = "2026-01-01T00:00:00.000Z"
        gated = "manual" if repo.gated else False
        answer = {"_id": "1", "id": id, "modelId": id, "author": id.partition("/")[0], "sha": sha, "gated": gated}
        answer |= {"private": repo.private, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        files = [{"rfilename": path} for path in repo.commits[sha]]
        self._send(200, {**answer, "lastModified": date, "createdAt": date, "siblings": files})

    def refs(self, type: str, id: str) -> None:
        repo, _ = self._find(type, id)
        entries = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": s} for n, s in repo.refs.items()]
        branches = [entry for entry in entries if not entry["name"].startswith("refs/")]
        self._send(200, {"branches": branches, "converts": [], "tags": [], "pullRequests": []})

    def branch(self, type: str, id: str, name: str) -> None:
        repo, sha = self._find(type, id)
        self._require_write(id)
        if name in repo.refs:
            raise _error(409, "BranchExists", "Reference already exists")
        repo.refs[name] = sha
        self._send(201, {})

    # -- uploads

    def preupload(self, type: str, id: str, revision: str) -> None:
        repo, sha = self._find(type, id, revision)
        self._require_write(id, "create_pr" in self.query)
        present = repo.commits[sha]
        files = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            entry = {"path": path, "uploadMode": "lfs" if _is_lfs(path) else "regular", "shouldIgnore": False}
            if path in present:
                entry["oid"] = _oid(path, present[path])
            files.append(entry)
        self._send(200, {"files": files})

    def lfs_batch(self, id: str, type: str = "model") -> None:
        self._require_token()
        objects = []
        for item in json.loads(self.body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-store/{item['oid']}"}}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, {"error": "content does not match its sha256"})
        self.hub.lfs[oid] = self.body
        self._send(200)

    def commit(self, type: str, id: str, revision: str) -> None:
        opening_pr = "create_pr" in self.query
        repo, base = self._find(type, id, revision)
        self._require_write(id, opening_pr)
        with self.hub.lock:
            files, message = dict(repo.commits[base]), ""
            for line in self.body.splitlines():
                item = json.loads(line)
                key, value = item["key"], item["value"]
                if key == "header":
                    message = value["summary"]
                elif key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    files[value["path"]] = self.hub.lfs[value["oid"]]
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
            sha = repo.commit(f"refs/pr/{number}" if opening_pr else revision, files, message)
        page = f"{self.hub.url}/{_prefix(type)}{id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}"}
        if opening_pr:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        self._send(200, answer)

    # -- downloads

    def tree(self, type: str, id: str, revision: str, path: str = "") -> None:
        repo, sha = self._find(type, id, revision)
        files = repo.commits[sha]
        folder = f"{path}/" if path else ""
        below = [name for name in files if name.startswith(folder)]
        if path and not below:
            raise _error(404, "EntryNotFound", f"{path} does not exist on {revision}")
        entries: dict[str, dict[str, Any]] = {}
        for name in below:
            parents = name.removeprefix(folder).split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                parent = folder + "/".join(parents[:depth])
                entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
            entries[name] = _entry(name, files[name])
        if self.query.get("recursive", "").lower() not in ("1", "true"):
            entries = {name: entry for name, entry in entries.items() if "/" not in name.removeprefix(folder)}
        self._send(200, list(entries.values()))

    def paths_info(self, type: str, id: str, revision: str) -> None:
        repo, sha = self._find(type, id, revision)
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = urllib.parse.parse_qs(self.body.decode()).get("paths", [])
        files = repo.commits[sha]
        entries = [_entry(path, files[path]) for path in paths if path in files]
        folders = [path for path in paths if any(name.startswith(path.rstrip("/") + "/") for name in files)]
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
        self._send(200, entries)

    def resolve(self, id: str, revision: str, path: str, type: str = "model") -> None:
        repo, sha = self._find(type, id, revision)
        if repo.gated and not self._namespaces():
            raise _error(401, "GatedRepo", f"Access to {type} {id} is restricted.")
        data = repo.commits[sha].get(path)
        if data is None:
            message = f"{path} does not exist on {revision}"
            extra = {"X-Error-Code": "EntryNotFound", "X-Error-Message": message, "X-Repo-Commit": sha}
            raise _Refused(404, {"error": message}, extra)
        etag = f'"{_oid(path, data)}"'
        headers = {"X-Repo-Commit": sha, "ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "text/plain"}
        if _is_lfs(path):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self._send(206, data[start : end + 1], headers)
            return
        self._send(200, data, headers | {"Content-Length": str(len(data))})


def _prefix(type: str) -> str:
    return "" if type == "model" else f"{type}s/"


def _is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def _oid(path: str, data: bytes) -> str:
    if _is_lfs(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": _oid(path, data), "size": len(data), "path": path}
    if _is_lfs(path):
        entry["oid"] = hashlib.sha1(data).hexdigest()
        entry["lfs"] = {"oid": _oid(path, data), "size": len(data), "pointerSize": 130}
    return entry


_API = r"/api/(?P<type>model|dataset|space)s/(?P<id>[^/]+/[^/]+)"
_GIT = r"/(?:(?P<type>dataset|space)s/)?(?P<id>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", _API, _Handler.info),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", _API + r"/refs", _Handler.refs),
    ("POST", _API + r"/branch/(?P<name>.+)", _Handler.branch),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", _Handler.tree),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    ("POST", _GIT + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs-store/(?P<oid>\w+)", _Handler.lfs_put),
    ("GET HEAD", _GIT + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
