"""The Python client: `python3 client.py STEP NAMESPACE` runs one step and prints what it saw."""

import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import stream

config.load_kube_config()
core = client.CoreV1Api()
step, namespace = sys.argv[1:]


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"by": "python"}), data=data)


def crud():
    core.create_namespaced_config_map(namespace, config_map("one", colour="blue"))
    read = core.read_namespaced_config_map("one", namespace)
    print("read", read.data, read.metadata.managed_fields[0].manager)
    read.data["size"] = "3"
    print("replaced", core.replace_namespaced_config_map("one", namespace, read).data)
    try:
        core.replace_namespaced_config_map("one", namespace, read)
    except ApiException as error:
        print("stale", error.status, error.reason)
    listed = core.list_namespaced_config_map(namespace, label_selector="by=python", limit=1)
    print("listed", [item.metadata.name for item in listed.items])
    print("deleted", core.delete_namespaced_config_map("one", namespace)["status"])
    try:
        core.read_namespaced_config_map("one", namespace)
    except ApiException as error:
        print("gone", error.status)
    print("version", client.VersionApi().get_code().minor)


def patches():
    core.create_namespaced_config_map(namespace, config_map("patched", a="1", b="2"))
    for kind, body in [
        ("application/json-patch+json", [{"op": "remove", "path": "/data/a"}]),
        ("application/merge-patch+json", {"data": {"c": "3", "b": None}}),
        ("application/strategic-merge-patch+json", {"data": {"d": "4"}}),
    ]:
        patched = core.patch_namespaced_config_map("patched", namespace, body, _content_type=kind)
        print(kind.split("/")[1], patched.data)


def watching():
    names = iter(["w1", "w2", "w3"])
    core.create_namespaced_config_map(namespace, config_map("w0"))
    listed = core.list_namespaced_config_map(namespace, label_selector="by=python")
    version = listed.metadata.resource_version
    for round in range(2):
        # The second watch goes on where the first one stopped: nothing is missed, nothing comes twice.
        events = watch.Watch()
        core.create_namespaced_config_map(namespace, config_map(next(names)))
        for event in events.stream(
            core.list_namespaced_config_map, namespace, label_selector="by=python",
            resource_version=version, timeout_seconds=30,
        ):
            print("round", round, event["type"], event["object"].metadata.name)
            version = event["object"].metadata.resource_version
            events.stop()


def execute():
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "box"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "box", "image": "busybox", "command": ["sleep", "1000000"]}],
        },
    }
    core.create_namespaced_pod(namespace, pod)
    for event in watch.Watch().stream(
        core.list_namespaced_pod, namespace, field_selector="metadata.name=box", timeout_seconds=60
    ):
        if event["object"].status.phase == "Running":
            break
    call = dict(stderr=True, stdin=False, stdout=True, tty=False)
    print("exec", repr(stream(core.connect_get_namespaced_pod_exec, "box", namespace, command=["echo", "hi"], **call)))
    call["stdin"] = True
    shell = stream(
        core.connect_get_namespaced_pod_exec, "box", namespace, command=["sh"], _preload_content=False, **call
    )
    shell.write_stdin("echo out; echo err >&2; exit 5\n")
    shell.run_forever(timeout=20)
    print("shell", repr(shell.read_stdout()), repr(shell.read_stderr()), shell.returncode)
    core.delete_namespaced_pod("box", namespace)


def apply():
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    made = maps.server_side_apply(body=body, name="applied", namespace=namespace, field_manager="python")
    print("applied", made.data.to_dict(), made.metadata.managedFields[0].manager, made.metadata.managedFields[0].operation)
    body["data"]["a"] = "2"
    try:
        maps.server_side_apply(body=body, name="applied", namespace=namespace, field_manager="other")
    except ApiException as error:
        print("conflict", error.status)
    forced = maps.server_side_apply(
        body=body, name="applied", namespace=namespace, field_manager="other", force_conflicts=True
    )
    print("forced", forced.data.to_dict())
    maps.delete(name="applied", namespace=namespace)


def custom():
    group = f"{namespace}.example.com"
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    definitions = client.ApiextensionsV1Api()
    definitions.create_custom_resource_definition(definition)
    for event in watch.Watch().stream(
        definitions.list_custom_resource_definition, field_selector=f"metadata.name=things.{group}", timeout_seconds=30
    ):
        conditions = event["object"].status.conditions or []
        if any(one.type == "Established" and one.status == "True" for one in conditions):
            break
    objects = client.CustomObjectsApi()
    place = (group, "v1", namespace, "things")
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {}}
    print("custom", objects.create_namespaced_custom_object(*place, thing)["spec"])
    print("patched", objects.patch_namespaced_custom_object(*place, "t", {"spec": {"size": 2}})["spec"])
    things = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{group}/v1", kind="Thing")
    print("dynamic", [one.spec.size for one in things.get(namespace=namespace).items])
    try:
        objects.patch_namespaced_custom_object(*place, "t", {"spec": {"size": "big"}})
    except ApiException as error:
        print("invalid", error.status)
    objects.delete_namespaced_custom_object(*place, "t")
    definitions.delete_custom_resource_definition(f"things.{group}")


def lead():
    done = threading.Event()

    def started():
        lease = client.CoordinationV1Api().read_namespaced_lease("leader", namespace)
        print("leading", lease.spec.holder_identity)
        done.set()

    settings = electionconfig.Config(
        LeaseLock("leader", namespace, "python"), lease_duration=17, renew_deadline=15, retry_period=5,
        onstarted_leading=started, onstopped_leading=None,
    )
    threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()
    print("elected", done.wait(30))


globals()[step]()
