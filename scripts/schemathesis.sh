#!/usr/bin/env bash
# Asks a server for everything that its OpenAPI documents describe, with arguments and bodies made from them, right and
# wrong ones. No answer may be of the 5xx kind.
#
#   scripts/schemathesis.sh BINARY [SECONDS]        for each document, 60 seconds
#
# The generator is https://schemathesis.io, installed into target/schemathesis (python3-venv is needed).
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "$1")
seconds=${2:-60}
tools=$PWD/target/schemathesis
if [[ ! -x $tools/bin/st ]]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'schemathesis>=4,<5'
fi

work=$(mktemp -d)
: >"$work/log"
"$binary" --state-dir "$work/state" --run-dir "$work/run" serve --listen 127.0.0.1:0 --pod-ports listed 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
until grep -q '^serving on ' "$work/log"; do
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
done
url=$(sed -n 's/^serving on //p' "$work/log")
kubeconfig=$work/state/apiserver/admin.kubeconfig
field() { sed -n "s/^ *$1: *//p" "$kubeconfig" | base64 --decode >"$work/$2"; }
field client-certificate-data client.pem
field client-key-data client.key
field certificate-authority-data ca.pem
ask() { curl --silent --show-error --fail --cert "$work/client.pem" --key "$work/client.key" --cacert "$work/ca.pem" "$@"; }

documents=$(ask "$url/openapi/v3" | jq --raw-output '.paths | to_entries[] | select(.key | test("^apis?/")) | .key')
failed=0
for document in $documents; do
    file=$work/${document//\//_}.json
    # A watch lasts as long as it likes, so none is begun.
    ask "$url/openapi/v3/$document" |
        jq 'walk(if type == "object" and has("parameters") and (.parameters | type) == "array"
                 then .parameters |= map(select((.name? // "") != "watch")) else . end)
            | .paths |= with_entries(select(.key | test("/watch/") | not))' >"$file"
    operations=$(jq '[.paths[] | keys[] | select(test("get|put|post|patch|delete"))] | length' "$file")
    [[ $operations -gt 0 ]] || continue
    echo "schemathesis: $document ($operations operations)" >&2
    if ! "$tools/bin/st" run "$file" --url "$url" --checks not_a_server_error --phases coverage,fuzzing \
        --max-time "$seconds" --request-cert "$work/client.pem" --request-cert-key "$work/client.key" \
        --tls-verify "$work/ca.pem" --request-timeout 10 --continue-on-failure --warnings off --no-color \
        --suppress-health-check all >"$work/report" 2>&1; then
        failed=1
        cat "$work/report" >&2
    else
        grep -E 'Test cases|generated|passed' "$work/report" >&2 || true
    fi
    kill -0 "$server" 2>/dev/null || { echo "error: the server ended" >&2; cat "$work/log" >&2; exit 1; }
done
curl --silent --cert "$work/client.pem" --key "$work/client.key" --cacert "$work/ca.pem" "$url/metrics" |
    awk '/^apiserver_request_total/ && match($0, /code="5[0-9][0-9]"/) { print "error: " $0; bad = 1 }
         /^apiserver_request_panics/ && $NF != 0 { print "error: " $0; bad = 1 }
         /^apiserver_request_total/ { all += $NF } END { print all " requests"; exit bad }' >&2 || failed=1
exit "$failed"
