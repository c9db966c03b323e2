"""A made-up EPW file, line by line."""

DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def lines(leap: bool = False) -> list[str]:
    """A year at 45 degrees north that is as warm in every hour; the sun shines from 10 to 15."""
    head = ["LOCATION,Here,XX,Y,Z,1,45.0,10.0,1.0,200.0"] + [f"HEADER {n}" for n in range(7)]
    rows = []
    for month, days in enumerate(DAYS, 1):
        for day in range(1, days + 1 + (leap and month == 2)):
            for hour in range(1, 25):
                values = ["0"] * 35
                values[:6] = "2001", str(month), str(day), str(hour), "60", "?9"
                values[6:10] = "5.0", "1.0", "70", "98000"
                sun = ("100", "40") if 10 < hour <= 15 else ("0", "0")
                values[12:16] = "290", str(hour), *sun
                values[20:22] = "180", "3.0"
                rows.append(",".join(values))
    return head + rows
