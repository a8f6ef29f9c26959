package bench;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * Kafka Streams as a system under test.
 *
 * <p>Arguments: "scan" or "point" (how W2 finds the other half), the number of stream threads, and "eos" for exactly
 * once. The environment is that of every system, see internal/system.
 */
public final class Streams {
  private static final AtomicBoolean STARTED = new AtomicBoolean();

  private Streams() {}

  /** Says that the first record has come; may be called for each. */
  static void consuming() {
    if (!STARTED.get() && STARTED.compareAndSet(false, true)) {
      System.out.println("CONSUMING");
    }
  }

  public static void main(String[] args) {
    Map<String, String> env = System.getenv();
    StreamsBuilder builder = new StreamsBuilder();
    if (env.get("BENCH_WORKLOAD").equals("W1")) {
      Enrich.build(builder, env);
    } else {
      Join.build(builder, env, args[0].equals("scan"));
    }
    boolean exactlyOnce = args.length > 2 && args[2].equals("eos");
    KafkaStreams streams = new KafkaStreams(builder.build(), config(env, args[1], exactlyOnce));
    streams.setUncaughtExceptionHandler(
        fault -> {
          fault.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(15))));
    streams.start();
  }

  /** Record caches are off: keys are written once, so that a cache only delays. */
  private static Properties config(Map<String, String> env, String threads, boolean exactlyOnce) {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("BENCH_GROUP"));
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("BENCH_BROKERS"));
    p.put(StreamsConfig.STATE_DIR_CONFIG, env.get("BENCH_STATE"));
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Integer.parseInt(threads));
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
    if (exactlyOnce) {
      p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    }
    p.put(StreamsConfig.producerPrefix(ProducerConfig.ACKS_CONFIG), "all");
    p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 64 << 10);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6000);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 2000);
    return p;
  }
}
