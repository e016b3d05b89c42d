/**
 * The Gregorian calendar as arithmetic, for a clock chip that must not ask the host for a date. Years count
 * from March, so that the leap day is a year's last; 400 years are 146,097 days.
 */
export interface CivilTime {
  year: number;
  /** 1 to 12. */
  month: number;
  /** 1 to 31. */
  day: number;
  hour: number;
  minute: number;
  second: number;
  /** 0 is Sunday. */
  weekday: number;
}

const DAY_SECONDS = 86_400;
/** Days from 0000-03-01 to 1970-01-01. */
const EPOCH_DAYS = 719_468;

/** Seconds since 1970-01-01 00:00 to the calendar. */
export function civilTime(seconds: number): CivilTime {
  const days = Math.floor(seconds / DAY_SECONDS);
  const inDay = seconds - days * DAY_SECONDS;
  const shifted = days + EPOCH_DAYS;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra -
      Math.floor(dayOfEra / 1460) +
      Math.floor(dayOfEra / 36_524) -
      Math.floor(dayOfEra / 146_096)) /
      365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  return {
    year: era * 400 + yearOfEra + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1,
    hour: Math.floor(inDay / 3600),
    minute: Math.floor(inDay / 60) % 60,
    second: inDay % 60,
    weekday: (((days + 4) % 7) + 7) % 7,
  };
}

/**
 * The calendar to seconds since 1970-01-01 00:00. Any integers will do: a month of 13 is January of the next
 * year, a day of 0 the last of the month before.
 */
export function civilSeconds(time: Omit<CivilTime, "weekday">): number {
  const months = time.year * 12 + time.month - 1;
  const month = (((months % 12) + 12) % 12) + 1;
  const year = Math.floor(months / 12) - (month <= 2 ? 1 : 0);
  const era = Math.floor(year / 400);
  const yearOfEra = year - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + time.day - 1;
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear;
  const days = era * 146_097 + dayOfEra - EPOCH_DAYS;
  return days * DAY_SECONDS + time.hour * 3600 + time.minute * 60 + time.second;
}
