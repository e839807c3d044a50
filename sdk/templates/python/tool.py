"""Forecasts for cities."""

from typing import Annotated

import fumehood
from fumehood import InvalidArguments, NotFound, Output, tool

API = "https://api.forecast.example/v1/forecast"


@tool(effect="pure", title="Forecast", read_only=True, open_world=True)
def forecast(
    city: Annotated[str, "The city's name, such as `Bergen`."],
    days: Annotated[int, "How many days, today included.", {"minimum": 1, "maximum": 7}] = 3,
) -> Output:
    """The forecast for a city: one line for each day, temperatures in °C."""
    city = city.strip()
    if not city:
        raise InvalidArguments("`city` is blank: give the name of a city")
    answer = fumehood.get(API, {"city": city, "days": days})
    if answer.status == 404:
        raise NotFound(f"no city is called {city}: check the spelling, or name a larger one nearby")
    # Any other status that is no success: 429 becomes "unavailable", with the time that the API asks for.
    found = answer.ok().json()
    lines = [f"{day['date']}: {day['summary']}, {day['low']:g} to {day['high']:g} °C" for day in found["days"]]
    return Output("\n".join([found["city"], *lines]), structured=found)


Tools = fumehood.export(forecast)
