/* forecast.c: the formulas of forecast.h */
#include "fs/metrics/forecast.h"

#include <math.h>

#define ANOMALY_Z     4.0
#define ANOMALY_RATIO 1.5
#define SD_FLOOR      0.05 /* of the mean */

static double weight(double dt, double constant, uint64_t n)
{
	const double a = 1 - exp(-dt / constant), equal = 1.0 / (double)n;

	return a > equal ? a : equal;
}

void slope_add(struct slope *s, double x, double dt, double constant)
{
	if (s->n > 0 && dt <= 0)
		return;
	if (s->n > 0)
		s->per_second += weight(dt, constant, s->n) * ((x - s->value) / dt - s->per_second);
	s->value = x;
	s->n++;
}

double slope_seconds(const struct slope *s, double distance)
{
	if (s->n < 2 || s->per_second == 0 || (distance > 0) != (s->per_second > 0))
		return -1;
	return distance / s->per_second;
}

void normal_add(struct normal *w, double sum, uint64_t count, double dt, double constant)
{
	w->anomaly = false;
	if (count < FORECAST_FEW || dt <= 0)
		return;
	const double x = sum / (double)count;

	if (w->n == 0) {
		*w = (struct normal){.mean = x, .n = 1};
		return;
	}
	double sd = sqrt(w->variance), d = x - w->mean;

	sd = fmax(sd, SD_FLOOR * w->mean);
	w->z = sd > 0 ? d / sd : 0;
	w->anomaly = w->n >= FORECAST_WARM && w->z > ANOMALY_Z && x > ANOMALY_RATIO * w->mean;
	if (w->n >= FORECAST_WARM)
		d = fmax(fmin(d, ANOMALY_Z * sd), -ANOMALY_Z * sd);
	w->n++;
	const double a = weight(dt, constant, w->n);

	w->mean += a * d;
	w->variance = (1 - a) * (w->variance + a * d * d);
}
