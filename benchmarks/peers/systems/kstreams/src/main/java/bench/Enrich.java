package bench;

import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/** W1. */
final class Enrich {
  private Enrich() {}

  static void build(StreamsBuilder builder, Map<String, String> env) {
    Map<String, Double> rates = Map.of("EUR", 1.08, "USD", 1.0, "GBP", 1.27, "JPY", 0.0067);
    Map<String, String> tiers = new HashMap<>();
    for (int i = 0; i < 10_000; i++) {
      tiers.put("c-" + i, new String[] {"gold", "silver", "bronze"}[i % 3]);
    }
    builder.stream(env.get("BENCH_ORDERS"), Consumed.with(Serdes.String(), Orders.serde(Orders.Order.class)))
        .filter(
            (customer, order) -> {
              Streams.consuming();
              return order.wanted();
            })
        .mapValues(order -> new Orders.Priced(order, rates.get(order.currency), tiers.get(order.customer)))
        .to(env.get("BENCH_OUT"), Produced.with(Serdes.String(), Orders.serde(Orders.Priced.class)));
  }
}
