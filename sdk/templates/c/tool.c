/* Forecasts for cities. */
#include "fumehood.h"

#define HOST "api.forecast.example"
#define API "https://api.forecast.example/v1/forecast"
#define MOST_BODY 65536

static fh_result forecast(fh_text arguments) {
  fh_text city = fh_json_trim(fh_json_string(fh_json_get(arguments, "city")));
  int days = (int)fh_json_number(fh_json_get(arguments, "days"), 3);
  if (!city.size) return fh_fail(FH_INVALID_ARGUMENTS, "`city` is blank: give the name of a city");

  fh_text escaped = fh_escape(city);
  fh_text url = fh_format("%s?city=%.*s&days=%d", API, FH_SHOW(escaped), days);
  fh_answer answer = fh_http_get(url.at, MOST_BODY);
  if (answer.status == 404) {
    return fh_fail(FH_NOT_FOUND, "no city is called %.*s: check the spelling, or name a larger one nearby", FH_SHOW(city));
  }
  /* Any other status that is no success: 429 becomes "unavailable", with the time that the API asks for. */
  if (answer.status != 200) return fh_status(HOST, &answer);

  fh_text all = fh_json_get(answer.body, "days");
  fh_text text = fh_json_string(fh_json_get(answer.body, "city"));
  if (!all.size || !text.size) return fh_fail(FH_FAILED, "the answer of %s is not the expected JSON", HOST);
  for (size_t i = 0;; i++) {
    fh_text day = fh_json_at(all, i);
    if (!day.size) break;
    fh_text date = fh_json_string(fh_json_get(day, "date")), summary = fh_json_string(fh_json_get(day, "summary"));
    double low = fh_json_number(fh_json_get(day, "low"), 0), high = fh_json_number(fh_json_get(day, "high"), 0);
    text = fh_format("%.*s\n%.*s: %.*s, %g to %g °C", FH_SHOW(text), FH_SHOW(date), FH_SHOW(summary), low, high);
  }
  return fh_ok(text, answer.body);
}

const fh_tool fh_tools[] = {
  {
    .name = "forecast",
    .title = "Forecast",
    .description = "The forecast for a city: one line for each day, temperatures in °C.",
    .input_schema =
      "{\"type\": \"object\", \"properties\": {"
      "\"city\": {\"type\": \"string\", \"description\": \"The city's name, such as `Bergen`.\"},"
      "\"days\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 7, \"description\": \"How many days, today included; 3 if not given.\"}"
      "}, \"required\": [\"city\"], \"additionalProperties\": false}",
    .effect = FH_PURE,
    .read_only = true,
    .open_world = true,
    .run = forecast,
  },
  {0},
};
