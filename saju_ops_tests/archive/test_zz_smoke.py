import sqlalchemy as sa, pytest
from datetime import date, datetime, timedelta, UTC
from zoneinfo import ZoneInfo
from saju_ops.archive.engines import open_log_store, Selection
from saju_ops.archive.archive import archive_day, due_days
from saju_ops.archive.purge import purge, PurgePlan
from saju_ops.archive.restore import restore
from saju_ops.archive.window import Day, parse_day, day_of
from saju_ops.storage import open_storage
from saju_ops.schema import tables
from saju_ops.database import connect
KST=ZoneInfo("Asia/Seoul"); U=ZoneInfo("UTC")
def test_whole_way(database_url, tmp_path):
    eng=sa.create_engine(database_url); md=sa.MetaData()
    t=sa.Table('conversation_logs',md,sa.Column('log_id',sa.BigInteger().with_variant(sa.Integer,'sqlite'),primary_key=True),sa.Column('session_id',sa.String(255)),sa.Column('role',sa.String(10)),sa.Column('content',sa.Text),sa.Column('tokens',sa.Integer),sa.Column('created_at',sa.TIMESTAMP,nullable=False,index=True))
    md.create_all(eng)
    now=datetime(2026,11,20,tzinfo=UTC)
    rows=[dict(log_id=i,session_id=f's{i}',role=['user','assistant'][i%2],content=[None,'','한글 "q"\n\r,🙂','x'*500][i%4],tokens=i if i%3 else None,created_at=datetime(2026,10,1)+timedelta(minutes=i)) for i in range(1,5001)]
    with eng.begin() as c: c.execute(t.insert(),rows)
    eng.dispose()
    st=open_storage(str(tmp_path/'b'))
    with open_log_store(database_url,'conversation_logs',U) as s:
        first=day_of(s.instants('asc'),KST)
        ds=list(due_days(s,first,Day(date(2026,10,15),KST)))
        print([str(d) for d in ds])
        before=s.digest(Selection()); s.end_read()
        for d in ds:
            r=archive_day(s,st,d,now=now); assert r.outcome=='archived',r
            assert r.rows
        assert archive_day(s,st,ds[0],now=now).outcome=='unchanged'
        r=purge(s,st,PurgePlan(30,dry_run=True),now=now,first_day=parse_day('2026-01-01',KST))
        print(r); assert r.deletable==5000 and not r.problems
    # late + changed
    with eng.begin() as c:
        c.execute(t.insert(),[dict(log_id=9999,session_id='late',role='user',content='z',created_at=datetime(2026,10,1,10))])
        c.execute(t.update().where(t.c.log_id.in_([100,200])).values(tokens=7))
    with open_log_store(database_url,'conversation_logs',U) as s:
        r=purge(s,st,PurgePlan(30,dry_run=False,chunk_size=700),now=now,first_day=parse_day('2026-01-01',KST))
        print(r); assert r.deleted==4998 and r.kept_late==1 and r.kept_changed==2, r
        d=ds[0]
        r=archive_day(s,st,d,now=now); print(r); assert r.rows_written==3
        assert archive_day(s,st,d,now=now).outcome=='unchanged'
        r=purge(s,st,PurgePlan(30,dry_run=False,chunk_size=700),now=now,first_day=parse_day('2026-01-01',KST))
        print(r); assert r.deleted==3
        assert archive_day(s,st,d,now=now).outcome=='purged'
    p=restore(st,database_url,ds[0],ds[-1],zone_of_database=U,dry_run=True); print(p); assert p.to_write==5001
    p=restore(st,database_url,ds[0],ds[-1],zone_of_database=U,dry_run=False); assert p.written==5001
    p=restore(st,database_url,ds[0],ds[-1],zone_of_database=U,dry_run=False); assert p.already_there==5001 and p.written==0
    p=restore(st,database_url,ds[0],ds[-1],zone_of_database=U,table='copy',dry_run=False); assert p.written==5001
    with eng.begin() as c:
        assert c.execute(sa.select(t.c.tokens).where(t.c.log_id==100)).scalar()==7
        got=c.execute(sa.select(t).order_by(t.c.log_id)).mappings().all()
        for g,w in zip(got,rows):
            if w['log_id'] not in (100,200): assert dict(g)==w
