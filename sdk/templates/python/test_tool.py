import json
import unittest
from unittest.mock import patch

import fumehood
from tool import forecast


def answering(status, body="", headers=None):
    answer = fumehood.Answer("api.forecast.example", status, headers or {}, lambda most: body.encode())
    return patch("fumehood.get", return_value=answer)


class Forecast(unittest.TestCase):
    def test_each_day_is_a_line(self):
        found = {"city": "Tromsø", "days": [{"date": "2030-06-01", "summary": "rain", "low": 8, "high": 12.5}]}
        with answering(200, json.dumps(found)) as get:
            output = forecast("Tromsø", days=1)
        self.assertEqual(output.text, "Tromsø\n2030-06-01: rain, 8 to 12.5 °C")
        self.assertEqual(output.structured, found)
        self.assertEqual(get.call_args.args[1], {"city": "Tromsø", "days": 1})

    def test_failures_say_what_kind_they_are(self):
        with self.assertRaises(fumehood.InvalidArguments):
            forecast(" ")
        with self.assertRaises(fumehood.Denied):
            forecast("Bergen")
        with answering(404), self.assertRaises(fumehood.NotFound):
            forecast("Atlantis")
        with answering(429, headers={"retry-after": "30"}), self.assertRaises(fumehood.Unavailable) as raised:
            forecast("Bergen")
        self.assertEqual(raised.exception.after_ms, 30000)
        with answering(200, "<html>"), self.assertRaises(fumehood.Failed):
            forecast("Bergen")

    def test_the_signature_is_the_schema(self):
        schema = json.loads(forecast.tool["input_schema"])
        self.assertEqual(schema["required"], ["city"])
        self.assertEqual(schema["properties"]["days"]["maximum"], 7)
        self.assertEqual(schema["properties"]["days"]["default"], 3)


if __name__ == "__main__":
    unittest.main()
