// The stock Java client, as it tells of itself: java -cp 'DIRECTORY/*' Life.java URL TRANSPORTS USER
// Prints a line for each thing that happens to it, and does what a line of its standard input says.
import io.socket.client.IO;
import io.socket.client.Socket;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import org.json.JSONObject;

public class Life {
  public static void main(String[] args) throws Exception {
    var options = new IO.Options();
    options.transports = args[1].split(",");
    options.auth = Map.of("userId", args[2]);
    Socket socket = IO.socket(args[0], options);
    socket.on("presence:ready", told -> System.out.println("ready"));
    socket.on("presence:error", told -> System.out.println(((JSONObject) told[0]).optString("code")));
    socket.on(Socket.EVENT_CONNECT_ERROR, told -> {
      JSONObject data = told[0] instanceof JSONObject error ? error.optJSONObject("data") : null;
      if (data != null)
        System.out.println("refused: " + data.optString("code") + ", temporary: " + data.optBoolean("temporary"));
    });
    socket.on(Socket.EVENT_DISCONNECT, told -> System.out.println("disconnected"));
    socket.connect();
    var lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = lines.readLine()) != null; ) {
      if (line.equals("leave")) socket.emit("presence:leave", new JSONObject());
      if (line.equals("disconnect")) socket.disconnect();
      if (line.equals("exit")) break;
    }
    System.exit(0);
  }
}
