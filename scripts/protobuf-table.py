#!/usr/bin/env python3
"""Writes crates/apiserver/src/protobuf/messages.txt: which field of a Kubernetes object has which number in protobuf.

usage: scripts/protobuf-table.py [DIRECTORY]

DIRECTORY holds k8s.io/api and k8s.io/apimachinery as Go sources. Without it, Debian unstable's packages of them are
downloaded and unpacked in a temporary directory; nothing is installed, and it takes no privilege.

Numbers and types come from generated.proto. How a field looks in JSON (its name, whether it lies in its parent, whether
its zero value is left out) only the struct tags of the Go sources say. A message or field that is in one of them alone
is an error, so that nothing is dropped unseen.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

OUTPUT = pathlib.Path(__file__).parent.parent / "crates/apiserver/src/protobuf/messages.txt"
PACKAGES = ["golang-k8s-api-dev", "golang-k8s-apimachinery-dev"]
SOURCES = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

# The kinds of bodies: those that `builtin::kinds` serves, what their subresources take, and reviews. A `*` is any version.
KINDS = """
v1 core ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod PodTemplate
   ReplicationController ResourceQuota Secret Service ServiceAccount Binding
apps/v1 apps ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet
authentication.k8s.io/v1 authentication SelfSubjectReview TokenRequest TokenReview
authorization.k8s.io/v1 authorization LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
   SubjectAccessReview
autoscaling/v1 autoscaling HorizontalPodAutoscaler Scale
autoscaling/v2 autoscaling/v2 HorizontalPodAutoscaler
batch/v1 batch CronJob Job
coordination.k8s.io/v1 coordination Lease
discovery.k8s.io/v1 discovery EndpointSlice
events.k8s.io/v1 events Event
networking.k8s.io/v1 networking Ingress IngressClass NetworkPolicy
policy/v1 policy Eviction PodDisruptionBudget
rbac.authorization.k8s.io/v1 rbac ClusterRole ClusterRoleBinding Role RoleBinding
scheduling.k8s.io/v1 scheduling PriorityClass
storage.k8s.io/v1 storage CSIDriver StorageClass
* meta DeleteOptions
"""

# Messages that JSON shows as something else than an object.
SPECIAL = {
    ".k8s.io.apimachinery.pkg.apis.meta.v1.Time": "time",
    ".k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    ".k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1": "json",
    ".k8s.io.apimachinery.pkg.runtime.RawExtension": "json",
    ".k8s.io.apimachinery.pkg.api.resource.Quantity": "quantity",
    ".k8s.io.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
}
SCALARS = {"string", "bytes", "bool", "int32", "int64"}

MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (?:(optional|repeated) )?(map<string, *[\w.]+>|[\w.]+) (\w+) = (\d+);", re.MULTILINE)
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
MEMBER = re.compile(r'^\t(?:\w+\s+)?(\S+)\s+`.*?json:"([^"]*)".*?protobuf:"\w+,(\d+),', re.MULTILINE)
SLICE = re.compile(r"^type (\w+) \[\]", re.MULTILINE)


def unpack(directory):
    """Downloads and unpacks the packages; what they hold, as (directory of sources, versions)."""
    (directory / "lists/partial").mkdir(parents=True)
    (directory / "archives/partial").mkdir(parents=True)
    (directory / "sid.sources").write_text(SOURCES)
    options = [
        "APT::Sandbox::User=root", "Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={directory}",
        f"Dir::State::lists={directory}/lists", f"Dir::Cache={directory}",
    ]
    apt = ["apt-get", "--quiet", *(word for option in options for word in ("--option", option))]
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*apt, "download", *PACKAGES], check=True, stdout=subprocess.DEVNULL, cwd=directory)
    versions = []
    for package in sorted(directory.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, directory / "root"], check=True)
        shown = subprocess.run(["dpkg-deb", "--show", package], check=True, capture_output=True, text=True)
        versions.append(" ".join(shown.stdout.split()))
    return directory / "root/usr/share/gocode/src/k8s.io", versions


class Package:
    """What one directory of sources says about its messages."""

    def __init__(self, directory):
        proto = (directory / "generated.proto").read_text()
        self.name = re.search(r"^package ([\w.]+);", proto, re.MULTILINE)[1]
        self.messages = {
            name: [(int(number), label, kind, field) for label, kind, field, number in FIELD.findall(body)]
            for name, body in MESSAGE.findall(proto)
        }
        self.structs = {}
        self.slices = set()
        for source in sorted(directory.glob("*.go")):
            if source.name.startswith(("generated.", "zz_generated.")) or source.name.endswith("_test.go"):
                continue
            text = source.read_text()
            self.slices.update(SLICE.findall(text))
            for name, body in STRUCT.findall(text):
                self.structs[name] = {int(number): (kind, tag) for kind, tag, number in MEMBER.findall(body)}


class Table:
    """Every message that a kind needs."""

    def __init__(self, sources):
        self.sources = sources
        self.packages = {}
        self.lines = {}

    def package(self, name):
        """`.k8s.io.api.core.v1` read once."""
        if name not in self.packages:
            path = name.removeprefix(".k8s.io.").replace(".", "/")
            self.packages[name] = Package(self.sources / path)
        return self.packages[name]

    def type_of(self, package, kind):
        """How the table calls a type, after its messages were added."""
        if kind in SCALARS:
            return kind
        full = kind if kind.startswith(".") else f".{package.name}.{kind}"
        if full in SPECIAL:
            return SPECIAL[full]
        home, name = full.rsplit(".", 1)
        owner = self.package(home)
        if name in owner.slices:
            items = owner.messages[name]
            assert [item[1:] for item in items] == [("repeated", "string", "items")], full
            return "strings"
        return self.add(owner, name)

    def add(self, package, name):
        """Adds a message; how the table calls it."""
        group, version = package.name.split(".")[-2:]
        short = f"{group}.{name}" if version == "v1" else f"{group}.{version}.{name}"
        if short in self.lines:
            return short
        lines = self.lines[short] = []
        struct = package.structs[name]
        fields = package.messages[name]
        assert {field[0] for field in fields} == set(struct), f"{short}: {fields} {struct}"
        for number, label, kind, _ in sorted(fields):
            go, tag = struct[number]
            json, *options = tag.split(",")
            map_of = re.match(r"map<string, *([\w.]+)>", kind)
            shown = self.type_of(package, map_of[1] if map_of else kind)
            if map_of:
                shown = f"map:{shown}"
            elif label == "repeated":
                shown = f"list:{shown}"
            elif go.startswith("*") or "omitempty" not in options:
                # An explicit zero means something.
                shown = f"{shown}!" if shown in SCALARS | {"intorstring"} else shown
            json = "-" if "inline" in options or not json else json
            lines.append(f"{number} {json} {shown}")
        return short


def main():
    with tempfile.TemporaryDirectory() as work:
        if len(sys.argv) > 1:
            sources, versions = pathlib.Path(sys.argv[1]), ["sources given by hand"]
        else:
            sources, versions = unpack(pathlib.Path(work))
        table = Table(sources)
        roots = []
        for line in KINDS.strip().replace("\n   ", " ").splitlines():
            api_version, group, *kinds = line.split()
            group, _, version = group.partition("/")
            home = ".k8s.io.apimachinery.pkg.apis.meta.v1" if group == "meta" else f".k8s.io.api.{group}.{version or 'v1'}"
            for kind in kinds:
                roots.append(f"kind {api_version} {kind} {table.add(table.package(home), kind)}")
        text = [
            "# The fields of Kubernetes' API objects in protobuf. Written by scripts/protobuf-table.py, which says how",
            "# to make it anew, from the field numbers and JSON names that Kubernetes' sources state:",
            *(f"#   {version}" for version in versions),
            "# `kind APIVERSION KIND MESSAGE`, then each message: its name, and `NUMBER JSON-NAME TYPE` for each field.",
            "# JSON-NAME `-` is a message whose fields lie in its parent; `!` after a type keeps an explicit zero.",
            *roots,
        ]
        for name in sorted(table.lines):
            text += [name, *table.lines[name]]
        OUTPUT.write_text("\n".join(text) + "\n")


main()
