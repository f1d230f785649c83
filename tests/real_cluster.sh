#!/bin/sh
# Run the tests of the kubernetes adapter that need no misbehaving on a real cluster, such as one of kind or minikube:
#
#   tests/real_cluster.sh ~/.kube/config [namespace] [arguments of pytest]
#
# They create and delete Jobs with the image busybox:1 in that namespace (by default `default`), and need the rights of
# docs/kubernetes.md there.
set -eu
if [ $# -lt 1 ]; then
    echo "usage: $0 KUBECONFIG [NAMESPACE] [PYTEST ARGUMENTS]" >&2
    exit 2
fi
TEST_KUBECONFIG=$(realpath "$1")
shift
TEST_NAMESPACE=${1:-default}
if [ $# -gt 0 ]; then shift; fi
export TEST_KUBECONFIG TEST_NAMESPACE
cd "$(dirname "$0")/.."
exec .venv/bin/python -m pytest -v --timeout 600 tests/contract/test_kubernetes_adapter.py "$@"
