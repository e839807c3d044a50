/* The tool as a native program, with an API that answers what the test says. */
#include "tool.c"

#include <assert.h>

static fh_answer answer;
static char asked[256];

fh_answer fh_http_get(const char *url, size_t most) {
  (void)most;
  snprintf(asked, sizeof asked, "%s", url);
  return answer;
}

static fh_text plain(const char *text) { return (fh_text){text, strlen(text)}; }
static bool is(fh_text text, const char *expected) { return text.size == strlen(expected) && !memcmp(text.at, expected, text.size); }

static fh_result call(int status, const char *body, const char *arguments) {
  answer = (fh_answer){.status = status, .body = plain(body), .retry_after_ms = -1};
  return forecast(plain(arguments));
}

static void each_day_is_a_line(void) {
  const char *body = "{\"city\": \"Troms\\u00f8\", \"days\": [{\"date\": \"2030-06-01\", \"summary\": \"rain\", \"low\": 8, \"high\": 12.5}]}";
  fh_result result = call(200, body, "{\"days\": 2, \"city\": \" Tromsø \"}");
  assert(result.ok && is(result.text, "Tromsø\n2030-06-01: rain, 8 to 12.5 °C"));
  assert(is(result.structured, body));
  assert(!strcmp(asked, API "?city=Troms%C3%B8&days=2"));
}

static void failures_say_what_kind_they_are(void) {
  assert(call(200, "{}", "{\"city\": \" \"}").kind == FH_INVALID_ARGUMENTS);
  assert(call(404, "", "{\"city\": \"Atlantis\"}").kind == FH_NOT_FOUND);
  assert(call(429, "", "{\"city\": \"Bergen\"}").kind == FH_UNAVAILABLE);
  assert(call(403, "", "{\"city\": \"Bergen\"}").kind == FH_DENIED);
  assert(call(200, "<html>", "{\"city\": \"Bergen\"}").kind == FH_FAILED);
}

static void broken_json_has_no_values(void) {
  const char *broken[] = {"", "{", "[", "{\"a\"", "{\"a\":", "{\"a\":\"", "{\"a\":\"\\", "{\"a\":\"\\u12", "[1,", "}", "{{{{", "\"\\"};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    fh_text text = plain(broken[i]);
    assert(!fh_json_string(fh_json_get(text, "a")).size && !fh_json_at(text, 1).size);
  }
  assert(is(fh_json_string(plain("\"\\ud83d\\ude00 \\ud83d\"")), "😀 \xEF\xBF\xBD"));
}

int main(void) {
  each_day_is_a_line();
  failures_say_what_kind_they_are();
  broken_json_has_no_values();
  puts("3 passed, 0 failed");
}
