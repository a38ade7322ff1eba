"""An API server that knows the names of kinds and nothing else: what `kubectl --dry-run=client` asks of one.

Which objects there are is not known here, beyond their kinds.
"""

import http.server
import json
import threading

# What comes after the name of a kind to make that of its resources, where it is more than an s.
PLURALS = {"y": "ies", "s": "ses"}
# Kinds that belong to no namespace.
OF_THE_CLUSTER = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def plural(kind):
    """As in `trafficpolicies`."""
    name = kind.lower()
    return name[:-1] + PLURALS["y"] if name.endswith("y") else name + (PLURALS["s"] if name.endswith("s") else "s")


def resources(version, kinds):
    """What the server says of one version of a group."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": plural(kind),
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind not in OF_THE_CLUSTER,
                "verbs": ["create", "get", "list", "patch"],
            }
            for kind in sorted(kinds)
        ],
    }


def answers(documents):
    """Path to answer, for the kinds of these objects."""
    by_version = {"v1": set()}
    for document in documents:
        by_version.setdefault(document["apiVersion"], set()).add(document["kind"])
    groups = []
    for version in by_version:
        if "/" in version:
            of = {"groupVersion": version, "version": version.split("/")[1]}
            groups.append({"name": version.split("/")[0], "versions": [of], "preferredVersion": of})
    paths = {f"/{'apis' if '/' in v else 'api'}/{v}": resources(v, kinds) for v, kinds in by_version.items()}
    paths["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    paths["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return paths


def serve(documents):
    """Starts the server and gives it back; its address is `server_address`."""
    paths = answers(documents)

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers from the table."""

        def do_GET(self):
            """One answer."""
            answer = paths.get(self.path.split("?")[0])
            body = json.dumps(answer or {"kind": "Status", "status": "Failure", "code": 404}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing: who asks is our own."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
