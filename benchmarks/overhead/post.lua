-- wrk: POST the body in the file $BODY for ever, with the headers in the file $HEADERS ("name: value" a line); the figures as one line of JSON.
local function lines(name)
  local file = assert(io.open(os.getenv(name), "rb"))
  local text = file:read("*a")
  file:close()
  return text
end
wrk.method, wrk.body = "POST", lines("BODY")
wrk.headers["Content-Type"] = "application/json"
for name, value in lines("HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do wrk.headers[name] = value end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('JSON {"requests":%d,"seconds":%.6f,"p50_s":%.6f,"p99_s":%.6f,"errors":%d}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
