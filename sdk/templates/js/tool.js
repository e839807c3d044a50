import { Failure } from "./fumehood.js";

const API = "https://api.forecast.example/v1/forecast";

export const forecast = {
  name: "forecast",
  title: "Forecast",
  description: "The forecast for a city: one line for each day, temperatures in °C.",
  effect: "pure",
  readOnly: true,
  openWorld: true,
  input: {
    type: "object",
    properties: {
      city: { type: "string", description: "The city's name, such as `Bergen`." },
      days: { type: "integer", minimum: 1, maximum: 7, description: "How many days, today included; 3 if not given." },
    },
    required: ["city"],
    additionalProperties: false,
  },

  /** @param {{ city: string, days?: number }} arguments_ */
  run({ city, days = 3 }, { http }) {
    city = city.trim();
    if (!city) throw Failure.invalidArguments("`city` is blank: give the name of a city");
    const answer = http.get(API, { city, days });
    if (answer.status === 404) {
      throw Failure.notFound(`no city is called ${city}: check the spelling, or name a larger one nearby`);
    }
    // Any other status that is no success: 429 becomes "unavailable", with the time that the API asks for.
    const structured = answer.ok().json();
    const lines = structured.days.map((day) => `${day.date}: ${day.summary}, ${day.low} to ${day.high} °C`);
    return { text: [structured.city, ...lines].join("\n"), structured };
  },
};
