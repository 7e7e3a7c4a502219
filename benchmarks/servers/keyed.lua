-- The load with keys: the bodies of a file in turn, with the API key of BENCHMARK_API_KEY where that
-- is set, and Idempotency-Keys that begin with a prefix (or - for none), each a new one. Prints what
-- wrk measured as a line of JSON.
local bodies, headers, prefix, number = {}, { ["Content-Type"] = "application/json" }, nil, 0

function init(arguments)
   for body in io.lines(arguments[1]) do
      bodies[#bodies + 1] = body
   end
   local api_key = os.getenv("BENCHMARK_API_KEY")
   if api_key then
      headers["Authorization"] = "Bearer " .. api_key
   end
   if arguments[2] ~= "-" then
      prefix = arguments[2]
   end
end

function request()
   number = number + 1
   if prefix then
      headers["Idempotency-Key"] = prefix .. number
   end
   return wrk.format("POST", nil, headers, bodies[number % #bodies + 1])
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '{"answers": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests, summary.duration / 1e6, failed,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
