package bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** The records, as internal/orders has them. */
final class Orders {
  private static final ObjectMapper JSON = new ObjectMapper();

  private Orders() {}

  static class Order {
    public String id, type, customer;
    public int amount;
    public String currency, sku;
    public long ts;
    public String channel, address, note;

    boolean wanted() {
      return amount > 333 && (currency.equals("EUR") || currency.equals("USD") || currency.equals("GBP"));
    }
  }

  static class Priced extends Order {
    public double rate;
    public String tier;

    Priced(Order o, double rate, String tier) {
      id = o.id;
      type = o.type;
      customer = o.customer;
      amount = o.amount;
      currency = o.currency;
      sku = o.sku;
      ts = o.ts;
      channel = o.channel;
      address = o.address;
      note = o.note;
      this.rate = rate;
      this.tier = tier;
    }
  }

  static class Payment {
    public String id, type, order, customer;
    public int amount;
    public long ts;
    public String method;
  }

  record Confirmed(String id, String type, String order, String customer, int amount) {}

  static Confirmed confirm(String order, String payment, String customer, int amount) {
    long hash = 0xcbf29ce484222325L; // FNV-1a
    for (byte b : (order + "|" + payment).getBytes(StandardCharsets.UTF_8)) {
      hash = (hash ^ (b & 0xff)) * 0x100000001b3L;
    }
    return new Confirmed(String.format("%016x", hash), "OrderConfirmed", order, customer, amount);
  }

  static <T> T decode(byte[] value, Class<T> type) {
    try {
      return JSON.readValue(value, type);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static byte[] encode(Object value) {
    try {
      return JSON.writeValueAsBytes(value);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static <T> Serde<T> serde(Class<T> type) {
    return Serdes.serdeFrom((topic, value) -> encode(value), (topic, value) -> decode(value, type));
  }
}
