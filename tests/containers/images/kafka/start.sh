#!/bin/sh
# First the program that Kafka's own image runs: properties from the environment, and a formatted storage. Then the broker.
set -eu
export CLUSTER_ID="${CLUSTER_ID:-4L6g3nShT-eMCtK--X86sw}"
logging='-Dorg.slf4j.simpleLogger.'
quiet="${logging}defaultLogLevel=warn ${logging}log.kafka.server=info ${logging}logFile=System.out"
java="java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData $quiet -cp /opt/kafka/libs/*"
set -f # the asterisk is Java's
if [ ! -e "$KAFKA_LOG_DIRS/meta.properties" ]; then
  $java kafka.docker.KafkaDockerWrapper setup --default-configs-dir /opt/kafka/defaults \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config
fi
exec $java kafka.Kafka /opt/kafka/config/server.properties
