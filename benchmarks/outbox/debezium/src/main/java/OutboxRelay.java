import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Reads an outbox table from the log with Debezium's embedded engine and its outbox event router, and sends each batch to
 * Kafka before it is marked as processed. Prints "ready" when it reads, "begun" with the first row, and "done" with what
 * it took when all rows have been sent. Ends with its input.
 */
public final class OutboxRelay {
  public static void main(String[] args) throws Exception {
    String name = args[5];
    long rows = Long.parseLong(args[7]);
    KafkaProducer<String, byte[]> producer = producer(args[6]);
    Sender sender = new Sender(producer, name, rows);
    DebeziumEngine<RecordChangeEvent<SourceRecord>> engine =
        DebeziumEngine.create(ChangeEventFormat.of(Connect.class))
            .using(properties(args, name))
            .using(
                new DebeziumEngine.ConnectorCallback() {
                  @Override
                  public void pollingStarted() {
                    System.out.println("ready");
                  }
                })
            .using(
                (success, message, error) -> {
                  if (error != null) {
                    error.printStackTrace();
                  }
                  if (!success) {
                    System.err.println(message);
                    System.exit(1);
                  }
                })
            .notifying(sender::send)
            .build();
    Thread running = new Thread(engine, "engine");
    running.setDaemon(true);
    running.start();
    while (System.in.read() >= 0) {
      // until the input ends
    }
    engine.close();
    producer.close();
  }

  private static KafkaProducer<String, byte[]> producer(String brokers) {
    Properties p = new Properties();
    p.put("bootstrap.servers", brokers);
    p.put("acks", "all");
    return new KafkaProducer<>(p, new StringSerializer(), new ByteArraySerializer());
  }

  private static Properties properties(String[] args, String name) {
    Properties p = new Properties();
    p.put("name", name);
    p.put("connector.class", "io.debezium.connector.postgresql.PostgresConnector");
    p.put("offset.storage", "org.apache.kafka.connect.storage.MemoryOffsetBackingStore");
    p.put("database.hostname", args[0]);
    p.put("database.port", args[1]);
    p.put("database.user", args[2]);
    p.put("database.password", args[3]);
    p.put("database.dbname", args[4]);
    p.put("topic.prefix", name);
    p.put("table.include.list", "public." + name);
    p.put("plugin.name", "pgoutput");
    p.put("slot.name", name);
    p.put("publication.name", name);
    p.put("publication.autocreate.mode", "disabled");
    p.put("snapshot.mode", "no_data");
    p.put("poll.interval.ms", "10");
    p.put("tombstones.on.delete", "false");
    p.put("transforms", "outbox");
    p.put("transforms.outbox.type", "io.debezium.transforms.outbox.EventRouter");
    return p;
  }

  /** Sends a batch, waits, and counts. */
  private static final class Sender {
    private final KafkaProducer<String, byte[]> producer;
    private final String topic;
    private final long rows;
    private long sent;
    private long began;
    private long cpu;

    Sender(KafkaProducer<String, byte[]> producer, String topic, long rows) {
      this.producer = producer;
      this.topic = topic;
      this.rows = rows;
    }

    void send(
        List<RecordChangeEvent<SourceRecord>> events,
        DebeziumEngine.RecordCommitter<RecordChangeEvent<SourceRecord>> committer)
        throws InterruptedException {
      if (sent == 0) {
        began = System.nanoTime();
        cpu = processorNanos();
        System.out.println("begun");
      }
      List<Future<RecordMetadata>> sending = new ArrayList<>(events.size());
      for (RecordChangeEvent<SourceRecord> event : events) {
        SourceRecord record = event.record();
        Header id = record.headers().lastWithName("id");
        if (id == null) {
          continue; // no row of the table
        }
        ProducerRecord<String, byte[]> out =
            new ProducerRecord<>(topic, String.valueOf(record.key()), bytes(record.value()));
        out.headers().add("id", String.valueOf(id.value()).getBytes(StandardCharsets.UTF_8));
        sending.add(producer.send(out));
      }
      producer.flush();
      for (Future<RecordMetadata> one : sending) {
        try {
          one.get();
        } catch (java.util.concurrent.ExecutionException e) {
          throw new IllegalStateException(e);
        }
      }
      for (RecordChangeEvent<SourceRecord> event : events) {
        committer.markProcessed(event);
      }
      committer.markBatchFinished();
      long before = sent;
      sent += sending.size();
      if (before < rows && sent >= rows) {
        System.out.printf(
            "done {\"WallMillis\": %d, \"CPUMillis\": %d}%n",
            (System.nanoTime() - began) / 1_000_000, (processorNanos() - cpu) / 1_000_000);
      }
    }

    private static byte[] bytes(Object value) {
      if (value instanceof ByteBuffer buffer) {
        byte[] all = new byte[buffer.remaining()];
        buffer.duplicate().get(all);
        return all;
      }
      return value instanceof byte[] all ? all : String.valueOf(value).getBytes(StandardCharsets.UTF_8);
    }

    private static long processorNanos() {
      return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
          .getProcessCpuTime();
    }
  }
}
