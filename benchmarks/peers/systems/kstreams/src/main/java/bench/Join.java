package bench;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * W2. All events are in one store. In the form "scan" a customer's history lies together in the order of time, and is read
 * to find the other half. In the form "point" the key ends in order and kind, so that the other half is read by its key;
 * that answers this question only, and a history could not be asked for its last events.
 */
final class Join implements Processor<String, Join.Event, String, Orders.Confirmed> {
  record Event(char kind, String id, String order, int amount, long ts, byte[] raw) {}

  static void build(StreamsBuilder builder, Map<String, String> env, boolean scan) {
    builder.addStateStore(
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("events"), Serdes.Bytes(), Serdes.ByteArray()));
    Consumed<String, byte[]> bytes = Consumed.with(Serdes.String(), Serdes.ByteArray());
    KStream<String, Event> orders = builder.stream(env.get("BENCH_ORDERS"), bytes).mapValues(Join::order);
    KStream<String, Event> payments = builder.stream(env.get("BENCH_PAYMENTS"), bytes).mapValues(Join::payment);
    orders
        .merge(payments)
        .process(() -> new Join(scan), "events")
        .to(env.get("BENCH_OUT"), Produced.with(Serdes.String(), Orders.serde(Orders.Confirmed.class)));
  }

  private static Event order(byte[] raw) {
    Orders.Order o = Orders.decode(raw, Orders.Order.class);
    return new Event('o', o.id, o.id, o.amount, o.ts, raw);
  }

  private static Event payment(byte[] raw) {
    Orders.Payment p = Orders.decode(raw, Orders.Payment.class);
    return new Event('p', p.id, p.order, p.amount, p.ts, raw);
  }

  private final boolean scan;
  private final ByteArraySerializer serializer = new ByteArraySerializer();
  private ProcessorContext<String, Orders.Confirmed> context;
  private KeyValueStore<Bytes, byte[]> events;

  private Join(boolean scan) {
    this.scan = scan;
  }

  @Override
  public void init(ProcessorContext<String, Orders.Confirmed> context) {
    this.context = context;
    events = context.getStateStore("events");
  }

  @Override
  public void process(Record<String, Event> record) {
    Streams.consuming();
    Event e = record.value();
    String other = scan ? scan(record.key(), e) : point(record.key(), e);
    if (other == null) {
      return;
    }
    String payment = e.kind() == 'p' ? e.id() : other;
    context.forward(record.withValue(Orders.confirm(e.order(), payment, record.key(), e.amount())));
  }

  /** Key: customer, 0, order, 0, kind. Value: length of the id, id, event. Returns the id of the other half, or null. */
  private String point(String customer, Event e) {
    char otherKind = e.kind() == 'o' ? 'p' : 'o';
    byte[] id = bytes(e.id());
    byte[] value = ByteBuffer.allocate(1 + id.length + e.raw().length).put((byte) id.length).put(id).put(e.raw()).array();
    events.put(Bytes.wrap(bytes(customer + '\0' + e.order() + '\0' + e.kind())), value);
    byte[] other = events.get(Bytes.wrap(bytes(customer + '\0' + e.order() + '\0' + otherKind)));
    return other == null ? null : new String(other, 1, other[0], StandardCharsets.UTF_8);
  }

  /** Key: customer, 0, time, kind, id. Value: length of the order's id, that id, event. Returns as point does. */
  private String scan(String customer, Event e) {
    byte[] prefix = bytes(customer + '\0');
    byte[] order = bytes(e.order());
    String found = null;
    try (KeyValueIterator<Bytes, byte[]> history = events.prefixScan(prefix, serializer)) {
      while (history.hasNext()) {
        KeyValue<Bytes, byte[]> entry = history.next();
        byte[] key = entry.key.get();
        int kind = prefix.length + Long.BYTES;
        byte[] value = entry.value;
        if (key[kind] != e.kind() && Arrays.equals(value, 1, 1 + value[0], order, 0, order.length)) {
          found = new String(key, kind + 1, key.length - kind - 1, StandardCharsets.UTF_8);
        }
      }
    }
    byte[] id = bytes(e.id());
    byte[] key =
        ByteBuffer.allocate(prefix.length + Long.BYTES + 1 + id.length)
            .put(prefix)
            .putLong(e.ts())
            .put((byte) e.kind())
            .put(id)
            .array();
    byte[] value =
        ByteBuffer.allocate(1 + order.length + e.raw().length).put((byte) order.length).put(order).put(e.raw()).array();
    events.put(Bytes.wrap(key), value);
    return found;
  }

  private static byte[] bytes(String s) {
    return s.getBytes(StandardCharsets.UTF_8);
  }
}
