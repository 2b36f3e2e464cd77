#!/bin/sh
# Makes a bucket in Garage, a key that reads and writes there, and a key that only reads: garage-setup of compose.yaml.
#
#   setup.sh BUCKET
#
# Runs in an image that has curl and a POSIX shell. Speaks Garage's administration API, version 2. What is there is kept.
# Secrets travel in files and standard input, never as arguments.
set -eu

bucket=$1
api=${GARAGE_ADMIN_URL:?}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ printf 'Authorization: Bearer '; cat "${GARAGE_ADMIN_TOKEN_FILE:?}"; } >"$work/header"

# ask PATH [BODY]: prints the answer's body; fails where the service refuses. POST if there is a body.
ask() {
    if [ $# -eq 1 ]; then
        curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused --header "@$work/header" "$api$1"
    else
        printf '%s' "$2" | curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused \
            --header "@$work/header" --header 'Content-Type: application/json' --data @- "$api$1"
    fi
}
there() { ask "$1" >/dev/null 2>&1; }

# field NAME FILE: a value of an AWS credentials file.
field() { sed -n "s/^$1 *= *//p" "$2"; }

# key NAME FILE PERMISSIONS: a key as FILE has it, with these permissions on the bucket.
key() {
    id=$(field aws_access_key_id "$2")
    if ! there "/v2/GetKeyInfo?id=$id"; then
        secret=$(field aws_secret_access_key "$2")
        ask /v2/ImportKey "{\"name\":\"$1\",\"accessKeyId\":\"$id\",\"secretAccessKey\":\"$secret\"}" >/dev/null
        echo "made key $1 ($id)"
    fi
    ask /v2/AllowBucketKey "{\"bucketId\":\"$bucket_id\",\"accessKeyId\":\"$id\",\"permissions\":$3}" >/dev/null
}

if ! there "/v2/GetBucketInfo?globalAlias=$bucket"; then
    ask /v2/CreateBucket "{\"globalAlias\":\"$bucket\"}" >/dev/null
    echo "made bucket $bucket"
fi
# The first "id" of the answer is the bucket's.
bucket_id=$(ask "/v2/GetBucketInfo?globalAlias=$bucket" | tr -d ' \n' | sed 's/^{"id":"\([0-9a-f]*\)".*/\1/')
key walkeep-writer "${WRITER_FILE:?}" '{"read":true,"write":true,"owner":false}'
key walkeep-reader "${READER_FILE:?}" '{"read":true,"write":false,"owner":false}'
echo "bucket $bucket is ready"
