-- wrk: the same POST /tasks over and over; prints one line of JSON at the end. Body and headers come by environment.
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/x-safetensors"
wrk.headers["Accept"] = "application/x-safetensors"
wrk.headers["Cache-Control"] = "no-store"
wrk.headers["Prefer"] = "wait=10"

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "failed": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
