#!/bin/sh
# Run the tests of the kubernetes adapter that need no misbehaving on a real cluster, such as one of kind or minikube:
#
#   tests/real_cluster.sh ~/.kube/config [namespace] [arguments of pytest]
#
# They create and delete Jobs with the image busybox:1 in that namespace (by default `default`), and need the rights of
# docs/kubernetes.md there, and `create` on pods/eviction.
#
# What is done to a node, or to the API server, is done by commands of yours, of which $NODE is the node's name; a test
# whose commands are not given is skipped. They disturb everything on that node: give them for a cluster of your own.
#
#   TAINT_NODE='kubectl taint node $NODE reprieve-test=1:NoExecute'   UNTAINT_NODE='kubectl taint node $NODE reprieve-test-'
#   STOP_KUBELET='ssh $NODE systemctl stop kubelet'                   START_KUBELET='ssh $NODE systemctl start kubelet'
#   STOP_API_SERVER='…'  START_API_SERVER='…'                         as your control plane wants it
#   TEST_LOG_SIZE=10485760                                            containerLogMaxSize of its kubelets, in bytes
#
# Of kind: STOP_KUBELET='docker exec $NODE systemctl stop kubelet', and for the API server of a single control plane,
# STOP_API_SERVER='docker exec kind-control-plane mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/'.
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
exec .venv/bin/python -m pytest -v --timeout 900 tests/contract/test_kubernetes_adapter.py \
    tests/contract/test_kubernetes_disruptions.py "$@"
