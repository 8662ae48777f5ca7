#!/bin/sh
# The stack, installed by hand with full knowledge: `sh cold.sh <container>` in each of the three containers in parallel,
# next to the files of `script.py`. It checks nothing, keeps no copies, and cannot be run a second time.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=hardlink
. ./facts

packages() {
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends $(cat packages) >/dev/null
}

unpack() { tar -xpf "$1.tar" -C /; }

account() { useradd --system --user-group --no-create-home --home-dir "$3" --shell "$2" "$1"; }

venv() {
    python3 -m venv /opt/homelab/uv
    /opt/homelab/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r uv.txt
    echo "$UV_DIGEST" >/opt/homelab/uv/lock.sha256
    folder=$VENV-$(python3 -c 'import platform; print(platform.python_version())')-$VENV_DIGEST
    /opt/homelab/uv/bin/uv venv --quiet --python /usr/bin/python3 "$folder"
    /opt/homelab/uv/bin/uv pip sync --quiet --require-hashes --no-build --compile-bytecode \
        --python "$folder/bin/python" venv.txt
    ln -s "$folder" "$VENV"
}

until_answered() { until sh "$1" >answer 2>/dev/null; do sleep 0.2; done; }

sql() { runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d "$1" -f - <"$1.sql" >/dev/null; }

case $1 in
postgres-data)
    unpack early
    systemctl reload ssh
    packages
    pg_createcluster "$POSTGRES" main >/dev/null
    unpack late
    systemctl daemon-reload
    systemctl start "postgresql@$POSTGRES-main"
    sql postgres
    sql project_data
    sql airflow_metadata
    sql template1
    ;;
analytics-platform)
    packages
    account analytics /bin/sh /home/analytics
    account pipeline-weather /usr/sbin/nologin /opt/analytics-platform/pipelines/weather
    unpack early
    systemctl reload ssh
    venv
    "$VENV/bin/python" -B /opt/analytics-platform/scripts/install_extension.py /opt/analytics-platform/extensions >/dev/null
    systemctl daemon-reload
    until_answered database.sh
    unpack late
    ;;
airflow-orchestration)
    packages
    account airflow /usr/sbin/nologin /home/airflow
    unpack early
    systemctl reload ssh
    venv
    until_answered database.sh
    /usr/local/sbin/homelab-airflow db migrate >/dev/null 2>&1
    mkdir -p /var/lib/homelab/upgrades
    printf %s "$UPGRADE" >/var/lib/homelab/upgrades/airflow
    until_answered gate.sh
    systemctl daemon-reload
    systemctl enable --quiet $UNITS
    systemctl start --no-block $UNITS
    AIRFLOW__FAB__UPDATE_FAB_PERMS=False /usr/local/sbin/homelab-airflow users create --username admin \
        --firstname Home --lastname Lab --role Admin --email admin@example.org <password >/dev/null 2>&1
    echo "$ADMIN" >/var/lib/homelab/airflow-admin
    while until_answered health.sh; grep -q unhealthy answer; do sleep 0.2; done
    ;;
esac
